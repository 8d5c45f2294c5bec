//! What logs, status and errors may show of URLs and headers.
//!
//! Hides by rule and not by guess: every query value and every header value, but for a few headers that can't carry
//! a secret. A secret inside a path can't be told from a path.

use std::fmt;

use http::HeaderMap;
use url::Url;

/// Headers whose values are shown.
const PLAIN: [&str; 8] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "mcp-protocol-version",
    "retry-after",
    "server",
    "transfer-encoding",
];

/// What stands in place of a value.
const HIDDEN: &str = "…";

/// A URL without user name, password and fragment, and with the values of its query hidden.
#[must_use]
pub fn url(url: &Url) -> String {
    let mut shown = format!("{}://", url.scheme());
    if let Some(host) = url.host_str() {
        shown.push_str(host);
    }
    if let Some(port) = url.port() {
        shown.push_str(&format!(":{port}"));
    }
    shown.push_str(url.path());
    for (at, pair) in url.query().unwrap_or_default().split('&').enumerate() {
        match pair.split_once('=') {
            Some((name, _)) => shown.push_str(&format!("{}{name}={HIDDEN}", separator(at))),
            // A bare word may be the key itself.
            None if !pair.is_empty() => shown.push_str(&format!("{}{HIDDEN}", separator(at))),
            None => {}
        }
    }
    shown
}

/// Headers for a log line: names as they are, values hidden unless harmless.
#[must_use]
pub fn headers(headers: &HeaderMap) -> Shown<'_> {
    Shown(headers)
}

/// See [`headers`].
pub struct Shown<'a>(&'a HeaderMap);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.0 {
            match value.to_str() {
                Ok(value) if PLAIN.contains(&name.as_str()) => map.entry(&name.as_str(), &value),
                Ok(_) | Err(_) => map.entry(&name.as_str(), &HIDDEN),
            };
        }
        map.finish()
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

fn separator(at: usize) -> char {
    if at == 0 { '?' } else { '&' }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_url_keeps_its_place_and_loses_its_secrets() {
        for (text, shown) in [
            ("http://me:s3cret@host:81/mcp?key=s3cret&team=s3cret#s3cret", "http://host:81/mcp?key=…&team=…"),
            ("https://host/mcp?s3cret", "https://host/mcp?…"),
            ("https://[::1]:8761/mcp", "https://[::1]:8761/mcp"),
            ("http://host", "http://host/"),
        ] {
            assert_eq!(url(&Url::parse(text).unwrap()), shown);
        }
    }

    #[test]
    fn header_values_are_hidden_unless_harmless() {
        let mut map = HeaderMap::new();
        map.insert("authorization", HeaderValue::from_static("Bearer s3cret"));
        map.insert("mcp-session-id", HeaderValue::from_static("s3cret"));
        map.insert("x-anything", HeaderValue::from_bytes(b"\xffs3cret").unwrap());
        map.insert("content-type", HeaderValue::from_static("application/json"));
        let shown = format!("{:?}", headers(&map));
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("\"authorization\": \"…\""), "{shown}");
        assert!(shown.contains("\"content-type\": \"application/json\""), "{shown}");
    }
}
