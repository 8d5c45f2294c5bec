//! The headers of Streamable HTTP as names that are read already: found and set without looking at their letters.

use http::HeaderName;
use relatch_wire::headers::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};

use crate::spans::TRACEPARENT;

pub(crate) const SESSION: HeaderName = HeaderName::from_static(SESSION_ID);
pub(crate) const REVISION: HeaderName = HeaderName::from_static(PROTOCOL_VERSION);
pub(crate) const LAST_EVENT: HeaderName = HeaderName::from_static(LAST_EVENT_ID);
pub(crate) const TRACE: HeaderName = HeaderName::from_static(TRACEPARENT);
