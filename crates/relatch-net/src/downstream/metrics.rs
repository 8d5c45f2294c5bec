//! `/metrics` of the HTTP side: who may read it, and how its text goes out. What stands in it is the keeper's.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};

use super::body::Body;
use super::origin::has_bearer;

/// Where it is.
pub(crate) const PATH: &str = "/metrics";

/// Collectors can send a bearer from a file, and seldom a header of another name.
pub(crate) fn may_read(headers: &HeaderMap, token: &str) -> bool {
    has_bearer(headers, token)
}

pub(crate) fn answer(text: Bytes) -> Response<Body> {
    let mut response = Response::new(text.into());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
