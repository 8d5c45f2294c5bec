//! An upstream's address: parsed once, checked once. A URL, or a unix socket.
//!
//! Decides what counts as a usable address and how near it is. Resolves nothing itself; the dialer tells it
//! what a name resolved to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::HeaderValue;
use url::{Host, Url};

use super::route::Route;
use crate::redact;

/// What is asked for at a unix socket that is given without a path of its own.
const SOCKET_URI: &str = "/mcp";
/// The system's bound for the path of a unix socket, in bytes.
const MAX_SOCKET: usize = 107;

/// The longest URL that is taken, in bytes.
pub const MAX_URL: usize = 8 * 1024;

/// One upstream URL and what follows from it. Clones share what is learnt about nearness.
#[derive(Clone, Debug)]
pub struct Target {
    /// The URL as given: http or https, with a host, without userinfo and fragment. At a unix socket its host is
    /// `localhost`.
    pub url: Url,
    socket: Option<Arc<Path>>,
    route: Arc<Route>,
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
    /// The address of a unix socket that is none.
    #[error("{0}")]
    Socket(&'static str),
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
            Self::Socket(_) => {
                "Write it as `unix:/run/mcp.sock`, or `unix:/run/mcp.sock:/PATH` where the server is not at `/mcp`".into()
            }
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
        if let Some((socket, uri)) = socket_of(text) {
            return Self::at_socket(socket?, &uri);
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
        Ok(Self { url, socket: None, route: Arc::default(), host, port, host_header, nearness })
    }

    fn at_socket(socket: PathBuf, uri: &str) -> Result<Self, TargetError> {
        if !socket.is_absolute() {
            return Err(TargetError::Socket("the path of a unix socket begins with `/`"));
        }
        if socket.as_os_str().len() > MAX_SOCKET {
            return Err(TargetError::Socket("the path of a unix socket has at most 107 bytes"));
        }
        if socket.as_os_str().to_string_lossy().chars().any(char::is_control) {
            return Err(TargetError::Socket("the path of a unix socket has no control characters"));
        }
        let uri = if uri.is_empty() { SOCKET_URI } else { uri };
        let target = Self::parse(&format!("http://localhost{uri}"))?;
        Ok(Self { socket: Some(socket.into()), ..target })
    }

    /// The same target, reached this way.
    #[must_use]
    pub fn by(self, route: Route) -> Self {
        Self { route: Arc::new(route), ..self }
    }

    /// The same way to another URL of the same server.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn beside(&self, url: &Url) -> Result<Self, TargetError> {
        let target = Self::parse(url.as_str())?;
        Ok(Self {
            socket: self.socket.clone(),
            route: Arc::clone(&self.route),
            nearness: Arc::clone(&self.nearness),
            ..target
        })
    }

    /// How it is reached.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The unix socket at which it is, where it is at one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether this is the same address, however it is reached.
    #[must_use]
    pub fn is_at(&self, other: &Target) -> bool {
        self.url == other.url && self.socket == other.socket
    }

    /// The whole address as a URL, with what may be secret in it.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.socket {
            None => self.url.to_string(),
            Some(socket) => with_uri(socket, self.path_and_query()),
        }
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
        let shown = redact::url(&self.url);
        match &self.socket {
            None => f.write_str(&shown),
            Some(socket) => f.write_str(&with_uri(socket, shown.trim_start_matches("http://localhost"))),
        }
    }
}

fn with_uri(socket: &Path, uri: &str) -> String {
    match uri {
        SOCKET_URI => format!("unix:{}", socket.display()),
        uri => format!("unix:{}:{uri}", socket.display()),
    }
}

/// The socket and the path behind it, of an address that means one: `unix:/run/mcp.sock:/mcp`, with `//` or without; as
/// nginx writes it, `http://unix:/run/mcp.sock:/mcp`; and as some libraries do, `http+unix://%2Frun%2Fmcp.sock/mcp`.
fn socket_of(text: &str) -> Option<(Result<PathBuf, TargetError>, String)> {
    let after = |prefix: &str| {
        let begins = text.get(..prefix.len())?.eq_ignore_ascii_case(prefix);
        begins.then(|| &text[prefix.len()..])
    };
    if let Some(rest) = after("http+unix://") {
        let (host, uri) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = String::from_utf8(super::proxy::decoded(host)).map(PathBuf::from);
        return Some((
            path.map_err(|_| TargetError::Socket("the path of a unix socket is no text")),
            uri.to_owned(),
        ));
    }
    let rest = after("http://unix:").or_else(|| {
        let rest = after("unix:")?;
        Some(rest.strip_prefix("//").unwrap_or(rest))
    })?;
    let (path, uri) = match rest.find(":/") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest.strip_suffix(':').unwrap_or(rest), ""),
    };
    let path = match path {
        "" => Err(TargetError::Socket("the address names no unix socket")),
        // As URLs spell what they don't allow.
        path => String::from_utf8(super::proxy::decoded(path))
            .map(PathBuf::from)
            .map_err(|_| TargetError::Socket("the path of a unix socket is no text")),
    };
    Some((path, uri.to_owned()))
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
    fn a_unix_socket_is_an_address_in_each_of_its_spellings() {
        for (text, shown, uri) in [
            ("unix:/run/mcp.sock", "unix:/run/mcp.sock", "/mcp"),
            ("unix:///run/mcp.sock", "unix:/run/mcp.sock", "/mcp"),
            ("unix:/run/mcp.sock:/", "unix:/run/mcp.sock:/", "/"),
            ("unix:/run/a b.sock:/api/mcp?key=s", "unix:/run/a b.sock:/api/mcp?key=…", "/api/mcp?key=s"),
            ("http://unix:/run/mcp.sock:/x", "unix:/run/mcp.sock:/x", "/x"),
            ("http+unix://%2Frun%2Fmcp.sock/x", "unix:/run/mcp.sock:/x", "/x"),
            ("http+unix://%2Frun%2Fmcp.sock", "unix:/run/mcp.sock", "/mcp"),
            ("unix:/run/a%20b.sock", "unix:/run/a b.sock", "/mcp"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.to_string().as_str(), target.path_and_query()), (shown, uri), "{text}");
            assert_eq!((target.host_header().to_str().unwrap(), target.is_tls()), ("localhost", false));
            assert_eq!(target.nearness(), Nearness::Loopback);
            let again = Target::parse(&target.address()).unwrap();
            assert!(again.is_at(&target), "{} and {}", again.address(), target.address());
        }
        for (text, words) in [
            ("unix:", "names no unix socket"),
            ("unix:run/mcp.sock", "begins with `/`"),
            ("http://unix:80/mcp", "begins with `/`"),
            ("http+unix://run", "begins with `/`"),
        ] {
            assert!(Target::parse(text).unwrap_err().to_string().contains(words), "{text}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(Target::parse(&long).unwrap_err().to_string().contains("107 bytes"));
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
