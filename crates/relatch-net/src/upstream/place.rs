//! Where an upstream is: its connections or processes, the headers that it is sent, and what it was learnt to redirect to.
//!
//! A session belongs to the place that opened it. When the upstream's address becomes another one, its former sessions are
//! spoken to where they are, with the headers that were meant for them, until they are replaced: no id and no credential of
//! one address goes to another.

use std::fmt;
use std::sync::{Arc, Mutex};

use http::HeaderMap;

use super::way::Way;
use crate::lock;

/// One address of an upstream.
pub(crate) struct Place {
    pub(crate) way: Way,
    /// The address for words and records.
    pub(crate) url: String,
    /// The path to which the server redirects, once known.
    pub(crate) path: Mutex<Option<Arc<str>>>,
    headers: Mutex<Arc<HeaderMap>>,
}

impl Place {
    pub(crate) fn new(way: Way, url: String, headers: HeaderMap) -> Arc<Place> {
        Arc::new(Place { way, url, path: Mutex::new(None), headers: Mutex::new(Arc::new(headers)) })
    }

    /// Headers that the user configured.
    pub(crate) fn headers(&self) -> Arc<HeaderMap> {
        Arc::clone(&lock(&self.headers))
    }

    /// From now on, these are sent.
    pub(crate) fn send_headers(&self, headers: HeaderMap) {
        *lock(&self.headers) = Arc::new(headers);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("url", &self.url).finish_non_exhaustive()
    }
}
