//! An upstream's address: parsed once, checked once.
//!
//! Decides what counts as a usable URL and how near its host is. Resolves nothing itself; the dialer tells it
//! what a name resolved to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::HeaderValue;
use url::{Host, Url};

use crate::redact;

/// The longest URL that is taken, in bytes.
pub const MAX_URL: usize = 8 * 1024;

/// One upstream URL and what follows from it. Clones share what is learnt about nearness.
#[derive(Clone, Debug)]
pub struct Target {
    /// The URL as given: http or https, with a host, without userinfo and fragment.
    pub url: Url,
    host: Host<String>,
    port: u16,
    host_header: HeaderValue,
    nearness: Arc<AtomicU8>,
}

/// How far away a host is; decides what may be asked of it unprompted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nearness {
    /// This machine.
    Loopback,
    /// A private, link-local or carrier-internal address.
    Private,
    /// Anything else, and every name that was not resolved yet.
    Public,
}

/// Why a text is not an upstream URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing but blanks.
    #[error("the URL is empty")]
    Empty,
    /// Longer than [`MAX_URL`].
    #[error("the URL is longer than {MAX_URL} bytes")]
    TooLong,
    /// No `http://` or `https://` in front.
    #[error("`{given}` has no scheme")]
    NoScheme {
        /// The text, without secrets.
        given: String,
    },
    /// Another scheme than http and https.
    #[error("the scheme `{scheme}` is not `http` or `https`")]
    Scheme {
        /// What stood before the colon.
        scheme: String,
    },
    /// No host after the scheme.
    #[error("the URL has no host")]
    NoHost,
    /// Port 0.
    #[error("port 0 can't be connected to")]
    PortZero,
    /// `user:password@` in front of the host.
    #[error("`{shown}` carries a user name or password")]
    UserInfo {
        /// The URL without them.
        shown: String,
    },
    /// `#…` at the end, which never reaches a server.
    #[error("the URL has a fragment, `#{fragment}`, which no server ever sees")]
    Fragment {
        /// What follows `#`.
        fragment: String,
    },
    /// Anything else the URL standard refuses.
    #[error("not a URL: {0}")]
    Invalid(url::ParseError),
}

impl TargetError {
    /// One thing to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty | Self::NoHost | Self::Invalid(_) => {
                "Write the whole address, such as `http://127.0.0.1:8761/mcp`".into()
            }
            Self::TooLong => "Move long values into `--header`".into(),
            Self::NoScheme { given } => format!("Write `http://{given}`, or `https://{given}`"),
            Self::Scheme { .. } => "Use an address that begins with `http://` or `https://`".into(),
            Self::PortZero => "Name the port that the server listens on".into(),
            Self::UserInfo { shown } => {
                format!("Use `{shown}` and `--header 'Authorization: Basic …'`")
            }
            Self::Fragment { .. } => "Remove everything from `#` on".into(),
        }
    }
}

impl Target {
    /// Reads an upstream URL.
    ///
    /// # Errors
    /// Names the first fault found; [`TargetError::hint`] says what to write instead.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if text.len() > MAX_URL {
            return Err(TargetError::TooLong);
        }
        if !text.contains("://") && !begins_with_web_scheme(text) {
            return Err(no_scheme(text));
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(url::ParseError::EmptyHost) => return Err(TargetError::NoHost),
            Err(url::ParseError::RelativeUrlWithoutBase) => return Err(no_scheme(text)),
            Err(other) => return Err(TargetError::Invalid(other)),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::Scheme { scheme: url.scheme().to_owned() });
        }
        let host = url.host().ok_or(TargetError::NoHost)?.to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo { shown: redact::url(&url) });
        }
        if let Some(fragment) = url.fragment() {
            return Err(TargetError::Fragment { fragment: fragment.to_owned() });
        }
        let port = url.port_or_known_default().ok_or(TargetError::NoHost)?;
        if port == 0 {
            return Err(TargetError::PortZero);
        }
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let host_header = HeaderValue::try_from(authority).map_err(|_| TargetError::NoHost)?;
        let nearness = Arc::new(AtomicU8::new(code(literal_nearness(&host))));
        Ok(Self { url, host, port, host_header, nearness })
    }

    /// The host as a name or address.
    #[must_use]
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The port, the scheme's own where the URL names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The value of the `Host` header.
    #[must_use]
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// What follows the host: the request target of every request to this URL.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }

    /// How near the host is: by its literal address or `localhost`, and for other names by what they last
    /// resolved to.
    #[must_use]
    pub fn nearness(&self) -> Nearness {
        match self.nearness.load(Ordering::Relaxed) {
            0 => Nearness::Loopback,
            1 => Nearness::Private,
            _ => Nearness::Public,
        }
    }

    /// Takes note of what a name resolved to. Only the farthest address counts.
    pub(crate) fn learn(&self, addresses: &[SocketAddr]) {
        let farthest = addresses.iter().map(|at| code(ip_nearness(at.ip()))).max();
        if let Some(farthest) = farthest
            && !self.is_local_name()
        {
            self.nearness.store(farthest, Ordering::Relaxed);
        }
    }

    /// `localhost` and the names under it, which never leave this machine (RFC 6761, section 6.3).
    pub(crate) fn is_local_name(&self) -> bool {
        matches!(&self.host, Host::Domain(name) if is_local(name))
    }
}

impl fmt::Display for Target {
    /// The URL without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact::url(&self.url))
    }
}

pub(crate) fn is_local(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let tail = name.rsplit('.').next().unwrap_or(name);
    tail.eq_ignore_ascii_case("localhost")
}

fn begins_with_web_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    })
}

fn no_scheme(text: &str) -> TargetError {
    let given = text.rsplit_once('@').map_or(text, |(_, after)| after).trim_start_matches('/');
    let given = given.split(['?', '#']).next().unwrap_or(given);
    TargetError::NoScheme { given: given.to_owned() }
}

fn code(nearness: Nearness) -> u8 {
    match nearness {
        Nearness::Loopback => 0,
        Nearness::Private => 1,
        Nearness::Public => 2,
    }
}

fn literal_nearness(host: &Host<String>) -> Nearness {
    match host {
        Host::Ipv4(ip) => ip_nearness(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ip_nearness(IpAddr::V6(*ip)),
        Host::Domain(name) if is_local(name) => Nearness::Loopback,
        Host::Domain(_) => Nearness::Public,
    }
}

fn ip_nearness(ip: IpAddr) -> Nearness {
    match ip.to_canonical() {
        // A connection to the unspecified address goes to this machine.
        ip if ip.is_loopback() || ip.is_unspecified() => Nearness::Loopback,
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let carrier = first == 100 && (64..128).contains(&second);
            if ip.is_private() || ip.is_link_local() || carrier {
                Nearness::Private
            } else {
                Nearness::Public
            }
        }
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Nearness::Private,
        IpAddr::V6(_) => Nearness::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(text: &str) -> Nearness {
        Target::parse(text).unwrap().nearness()
    }

    #[test]
    fn a_url_gives_its_host_header_and_its_request_target() {
        let target = Target::parse(" http://127.0.0.1:8761/mcp?team=a ").unwrap();
        assert_eq!(target.host_header(), "127.0.0.1:8761");
        assert_eq!(target.path_and_query(), "/mcp?team=a");
        assert_eq!((target.port(), target.is_tls()), (8761, false));

        let target = Target::parse("https://EXAMPLE.com").unwrap();
        assert_eq!(target.host_header(), "example.com");
        assert_eq!(target.path_and_query(), "/");
        assert_eq!((target.port(), target.is_tls()), (443, true));

        let target = Target::parse("http://[::1]:80/mcp").unwrap();
        assert_eq!(target.host_header(), "[::1]");
    }

    #[test]
    fn each_fault_is_named_and_hinted_at() {
        for (text, words, hint) in [
            ("", "empty", "http://127.0.0.1"),
            ("localhost:8761/mcp", "`localhost:8761/mcp` has no scheme", "`http://localhost:8761/mcp`"),
            ("me:secret@host/mcp?key=k", "`host/mcp` has no scheme", "`http://host/mcp`"),
            ("//host/mcp", "no scheme", "`http://host/mcp`"),
            ("ws://host/mcp", "`ws`", "`http://`"),
            ("http://", "no host", "http://127.0.0.1"),
            ("http://host:0/", "port 0", "port"),
            ("http://host:99999/", "port", "http://127.0.0.1"),
            ("http://me:secret@host/mcp", "user name or password", "Authorization"),
            ("http://host/mcp#part", "`#part`", "#"),
        ] {
            let fault = Target::parse(text).unwrap_err();
            assert!(fault.to_string().contains(words), "{text}: {fault}");
            assert!(fault.hint().contains(hint), "{text}: {}", fault.hint());
            assert!(!format!("{fault} {}", fault.hint()).contains("secret"), "{text}");
        }
        assert_eq!(Target::parse(&format!("http://{}", "a".repeat(9000))).unwrap_err(), TargetError::TooLong);
    }

    #[test]
    fn nearness_follows_the_address() {
        for text in
            ["http://127.8.0.1/", "http://[::1]/", "http://localhost./", "http://a.localhost/", "http://0/"]
        {
            assert_eq!(near(text), Nearness::Loopback, "{text}");
        }
        for text in ["http://10.1.2.3/", "http://172.31.0.1/", "http://192.168.1.1/", "http://169.254.1.1/"] {
            assert_eq!(near(text), Nearness::Private, "{text}");
        }
        for text in
            ["http://100.64.0.1/", "http://[fd00::1]/", "http://[fe80::1]/", "http://[::ffff:10.0.0.1]/"]
        {
            assert_eq!(near(text), Nearness::Private, "{text}");
        }
        for text in ["http://8.8.8.8/", "http://172.32.0.1/", "http://example.com/", "http://[2606:4700::1]/"]
        {
            assert_eq!(near(text), Nearness::Public, "{text}");
        }
    }

    #[test]
    fn a_name_is_as_near_as_the_farthest_address_it_resolves_to() {
        let target = Target::parse("http://server.internal/").unwrap();
        let seen_elsewhere = target.clone();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        target.learn(&[at("10.0.0.1:80"), at("127.0.0.1:80")]);
        assert_eq!(seen_elsewhere.nearness(), Nearness::Private);
        target.learn(&[at("10.0.0.1:80"), at("1.1.1.1:80")]);
        assert_eq!(seen_elsewhere.nearness(), Nearness::Public);
    }
}
