//! Where an upstream is: its connections or processes, the headers that it is sent, and what it was learnt to redirect to.
//!
//! A session belongs to the place that opened it. When the upstream's address becomes another one, its former sessions are
//! spoken to where they are, with the headers that were meant for them, until they are replaced: no id and no credential of
//! one address goes to another.

use std::fmt;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Uri};

use super::way::Way;
use crate::lock;

/// One address of an upstream.
pub(crate) struct Place {
    pub(crate) way: Way,
    /// The address for words and records.
    pub(crate) url: String,
    /// What is asked for there; none where the address has a path that no request can name.
    uri: Option<Uri>,
    /// Where the server redirects, once known.
    pub(crate) redirected: Mutex<Option<Uri>>,
    headers: Mutex<Arc<HeaderMap>>,
}

impl Place {
    pub(crate) fn new(way: Way, url: String, headers: HeaderMap) -> Arc<Place> {
        let uri = Uri::try_from(way.path_and_query()).ok();
        let headers = Mutex::new(Arc::new(headers));
        Arc::new(Place { way, url, uri, redirected: Mutex::default(), headers })
    }

    /// What is asked for there now.
    pub(crate) fn uri(&self) -> Option<Uri> {
        lock(&self.redirected).clone().or_else(|| self.uri.clone())
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
