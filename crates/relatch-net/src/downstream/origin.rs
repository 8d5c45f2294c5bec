//! Who may speak to the HTTP side: a known `Host`, a known `Origin` or none, and the token.
//!
//! `Host` and `Origin` keep web pages out (DNS rebinding, cross-site requests), the token keeps other users of the
//! machine out. The checks are pure; [`token_file`] alone touches the disk.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq;
use url::{Host, Url};

use crate::entropy;
use crate::upstream::target::is_local;

/// The header that carries the token.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("relatch-token");

/// The token's file inside the state folder.
pub const TOKEN_FILE: &str = "token";
/// The longest token file that is read, in bytes.
const MAX_TOKEN: u64 = 1_024;
/// Fewer characters are no token.
const MIN_TOKEN: usize = 32;
/// At most so much of a foreign value is repeated in words.
const MAX_SHOWN: usize = 100;

/// The hosts under which the HTTP side may be addressed: loopback names and addresses with any port, the address it
/// is bound to, and those that were added.
#[derive(Clone, Debug)]
pub struct Allowed {
    bound: SocketAddr,
    added: Vec<Place>,
    /// What nearly every client says, as it is spelled, where it is allowed: there is nothing to read in it.
    usual: Vec<String>,
}

/// A header that speaks of a host which is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{what}: {value}` is not allowed here")]
pub struct Foreign {
    /// The header: `Host` or `Origin`.
    pub what: &'static str,
    /// Its value, shortened; empty where it is missing.
    pub value: String,
}

/// A `--allow-host` value that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host such as `relatch.example` or `relatch.example:8443`")]
pub struct NotAHost(pub String);

/// A host, and a port where one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: Host<String>,
    port: Option<u16>,
}

impl Allowed {
    /// Allows loopback, the bound address, and each of `added` (with any port, or with the one it names).
    ///
    /// # Errors
    /// Names the value that is no host.
    pub fn new<S: AsRef<str>>(bound: SocketAddr, added: &[S]) -> Result<Self, NotAHost> {
        let added = added
            .iter()
            .map(|text| Place::parse(text.as_ref()).ok_or_else(|| NotAHost(text.as_ref().to_owned())))
            .collect::<Result<_, _>>()?;
        let mut allowed = Self { bound, added, usual: Vec::new() };
        allowed.usual = [bound.to_string(), format!("localhost:{}", bound.port())]
            .into_iter()
            .filter(|text| Place::parse(text).is_some_and(|place| allowed.allows(&place)))
            .collect();
        Ok(allowed)
    }

    /// Checks `Host` and `Origin` of a request.
    ///
    /// # Errors
    /// Names the header that is foreign. A request without `Host`, or with two, is foreign too; one without
    /// `Origin` is not (only browsers send it).
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Foreign> {
        let host = single(headers, &HOST, "Host")?.ok_or_else(|| foreign("Host", b""))?;
        self.check_host(host)?;
        match single(headers, &ORIGIN, "Origin")? {
            Some(origin) => self.check_origin(origin),
            None => Ok(()),
        }
    }

    fn check_host(&self, value: &HeaderValue) -> Result<(), Foreign> {
        if self.usual.iter().any(|text| text.as_bytes() == value.as_bytes()) {
            return Ok(());
        }
        let place = value.to_str().ok().and_then(Place::parse);
        match place {
            Some(place) if self.allows(&place) => Ok(()),
            Some(_) | None => Err(foreign("Host", value.as_bytes())),
        }
    }

    fn check_origin(&self, value: &HeaderValue) -> Result<(), Foreign> {
        let place = value.to_str().ok().and_then(origin_place);
        match place {
            Some(place) if self.allows(&place) => Ok(()),
            Some(_) | None => Err(foreign("Origin", value.as_bytes())),
        }
    }

    fn allows(&self, place: &Place) -> bool {
        let ip = match &place.host {
            Host::Domain(name) if is_local(name) => return true,
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(*ip).to_canonical()),
        };
        if let Some(ip) = ip {
            // `0.0.0.0` as a Host is how pages reach loopback past a browser's own checks.
            let bound = self.bound.ip().to_canonical();
            if ip.is_loopback() || (ip == bound && !bound.is_unspecified()) {
                return true;
            }
        }
        self.added
            .iter()
            .any(|added| added.host == place.host && (added.port.is_none() || added.port == place.port))
    }
}

impl Place {
    /// `host`, `host:port`, `[v6]:port`; names in lower case without a trailing dot.
    fn parse(text: &str) -> Option<Self> {
        // A host is nothing that could begin a path, a query or a user name.
        if text.is_empty()
            || text.contains(['/', '?', '#', '@', '\\', '%'])
            || text.contains(char::is_whitespace)
        {
            return None;
        }
        // Most clients say an address and a port, which is all that there is to read then.
        if let Ok(at) = text.parse::<SocketAddr>() {
            let host = match at.ip() {
                IpAddr::V4(ip) => Host::Ipv4(ip),
                IpAddr::V6(ip) => Host::Ipv6(ip),
            };
            return Some(Self { host, port: Some(at.port()) });
        }
        // The port is read apart: a URL drops one that is its scheme's own.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(digits(port)?)),
            Some(_) | None => (text, None),
        };
        let host = match Host::parse(host).ok()? {
            Host::Domain(name) => Host::Domain(name.trim_end_matches('.').to_owned()),
            address @ (Host::Ipv4(_) | Host::Ipv6(_)) => address,
        };
        Some(Self { host, port })
    }
}

/// Whether a request carries the token. The comparison takes as long for a wrong one as for the right one.
#[must_use]
pub fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let mut given = headers.get_all(TOKEN_HEADER).iter();
    match (given.next(), given.next()) {
        (Some(given), None) => given.as_bytes().ct_eq(token.as_bytes()).into(),
        (Some(_) | None, _) => false,
    }
}

/// Whether a request carries the token as its bearer. Only for what relatch answers itself: with a request to an
/// upstream, `Authorization` is the upstream's.
#[must_use]
pub fn has_bearer(headers: &HeaderMap, token: &str) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let Some((scheme, given)) = given.to_str().ok().and_then(|given| given.split_once(' ')) else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer") && given.trim().as_bytes().ct_eq(token.as_bytes()).into()
}

/// The user's token, kept in `folder`: made on first use with mode 0600 (a new folder gets 0700), read afterwards.
///
/// # Errors
/// When the file can be read, or the folder written, by others; when the file holds no token; and those of the disk.
/// Each names the path.
pub fn token_file(folder: &Path) -> io::Result<String> {
    make_private_folder(folder).map_err(|fault| named(folder, &fault))?;
    let path = folder.join(TOKEN_FILE);
    match read_token(&path) {
        Err(fault) if fault.kind() == ErrorKind::NotFound => {
            create_token(folder, &path).map_err(|fault| named(&path, &fault))?;
            // Read back, since another keeper may have been first.
            read_token(&path)
        }
        outcome => outcome,
    }
    .map_err(|fault| named(&path, &fault))
}

fn create_token(folder: &Path, path: &Path) -> io::Result<()> {
    // Written aside and linked into place, so that nobody ever reads half a token.
    let aside = folder.join(format!(".{TOKEN_FILE}-{}", entropy::session_id()));
    let written = private_file(&aside).and_then(|mut file| {
        file.write_all(entropy::token().as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&aside, path));
    let removed = fs::remove_file(&aside);
    match linked {
        Err(fault) if fault.kind() == ErrorKind::AlreadyExists => removed,
        Err(fault) => Err(fault),
        Ok(()) => removed,
    }
}

fn read_token(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    check_private(&file.metadata()?)?;
    let mut text = String::new();
    file.take(MAX_TOKEN).read_to_string(&mut text)?;
    let token = text.trim();
    if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let words = format!("holds no token of at least {MIN_TOKEN} characters; remove it to get a new one");
        return Err(io::Error::new(ErrorKind::InvalidData, words));
    }
    Ok(token.to_owned())
}

#[cfg(unix)]
fn check_private(of: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if !of.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "is not a file"));
    }
    let mode = of.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let words = format!("can be used by other users (mode {mode:04o}); run `chmod 600` on it, or remove it");
    Err(io::Error::new(ErrorKind::PermissionDenied, words))
}

#[cfg(not(unix))]
fn check_private(of: &fs::Metadata) -> io::Result<()> {
    if of.is_file() { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidData, "is not a file")) }
}

#[cfg(unix)]
fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode() & 0o777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let words = format!("can be changed by other users (mode {mode:04o}); run `chmod 700` on it");
    Err(io::Error::new(ErrorKind::PermissionDenied, words))
}

#[cfg(not(unix))]
fn make_private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn named(path: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("`{}`: {fault}", path.display()))
}

/// The value of a header that may stand there once.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    what: &'static str,
) -> Result<Option<&'a HeaderValue>, Foreign> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(second)) => Err(foreign(what, second.as_bytes())),
    }
}

/// Where an origin is: `http` and `https` ones only, so neither `null` nor a browser's extension.
fn origin_place(text: &str) -> Option<Place> {
    let url = Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let (_, rest) = text.split_once("://")?;
    let mut place = Place::parse(rest)?;
    place.port = url.port_or_known_default();
    Some(place)
}

fn digits(port: &str) -> Option<u16> {
    if port.bytes().all(|byte| byte.is_ascii_digit()) { port.parse().ok() } else { None }
}

fn foreign(what: &'static str, value: &[u8]) -> Foreign {
    let value = String::from_utf8_lossy(value);
    let value = value.chars().take(MAX_SHOWN).filter(|symbol| !symbol.is_control()).collect();
    Foreign { what, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(added: &[&str]) -> Allowed {
        Allowed::new("192.168.1.5:7332".parse().unwrap(), added).unwrap()
    }

    fn asked(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn loopback_the_bound_address_and_added_hosts_are_let_in() {
        let allowed = allowed(&["Relatch.Example", "proxy.example:8443", "[fd00::1]"]);
        for host in [
            "localhost",
            "LOCALHOST:1",
            "localhost.:7332",
            "app.localhost:7332",
            "127.0.0.1:7332",
            "127.1.2.3",
            "[::1]:7332",
            "[::ffff:127.0.0.1]:7332",
            "192.168.1.5:7332",
            "relatch.example",
            "relatch.example.:9",
            "proxy.example:8443",
            "[fd00::1]:1",
        ] {
            assert_eq!(allowed.check(&asked(&[("host", host)])), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_foreign() {
        let allowed = allowed(&["proxy.example:8443"]);
        for host in [
            "",
            "evil.example",
            "evil.example:7332",
            "proxy.example",
            "proxy.example:8444",
            "192.168.1.6:7332",
            "0.0.0.0:7332",
            "[::]:7332",
            "localhost.evil.example",
            "notlocalhost",
            "localhost:99999",
            "localhost:+1",
            "localhost@evil.example",
            "evil.example/localhost",
            "[::1",
            "localhost localhost",
        ] {
            let found = allowed.check(&asked(&[("host", host)])).unwrap_err();
            assert_eq!((found.what, found.value.as_str()), ("Host", host));
        }
        assert_eq!(allowed.check(&asked(&[])).unwrap_err().what, "Host");
        let two = asked(&[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(allowed.check(&two).unwrap_err().value, "evil.example");
    }

    #[test]
    fn an_unspecified_bound_address_lets_nobody_in_by_that_name() {
        let allowed = Allowed::new::<&str>("0.0.0.0:7332".parse().unwrap(), &[]).unwrap();
        assert!(allowed.check(&asked(&[("host", "0.0.0.0:7332")])).is_err());
    }

    #[test]
    fn origins_are_checked_when_there_are_any() {
        let allowed = allowed(&["relatch.example", "proxy.example:443"]);
        let with = |origin| allowed.check(&asked(&[("host", "localhost"), ("origin", origin)]));
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:9",
            "https://relatch.example",
            "https://proxy.example",
        ] {
            assert_eq!(with(origin), Ok(()), "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://proxy.example",
            "http://localhost.evil.example",
            "http://0.0.0.0:7332",
            "file://localhost",
            "chrome-extension://localhost",
            "http://localhost/path",
            "http:localhost",
            "localhost",
        ] {
            let found = with(origin).unwrap_err();
            assert_eq!((found.what, found.value.as_str()), ("Origin", origin));
        }
    }

    #[test]
    fn a_foreign_value_is_shown_short_and_without_controls() {
        let long = "x".repeat(5_000);
        let found = allowed(&[]).check(&asked(&[("host", &long)])).unwrap_err();
        assert_eq!(found.value.len(), MAX_SHOWN);
        assert_eq!(foreign("Host", b"a\x1b[31mb").value, "a[31mb");
    }

    #[test]
    fn an_added_host_that_is_none_is_named() {
        for text in ["", "http://relatch.example", "a b", "host:port", "user@host"] {
            let fault = Allowed::new("127.0.0.1:1".parse().unwrap(), &[text]).unwrap_err();
            assert_eq!(fault, NotAHost(text.to_owned()));
        }
    }

    #[test]
    fn the_token_must_be_there_once_and_right() {
        let token = entropy::token();
        assert!(has_token(&asked(&[("relatch-token", &token)]), &token));
        assert!(!has_token(&asked(&[]), &token));
        assert!(!has_token(&asked(&[("relatch-token", "")]), &token));
        assert!(!has_token(&asked(&[("relatch-token", &token[1..])]), &token));
        assert!(!has_token(&asked(&[("relatch-token", &token), ("relatch-token", &token)]), &token));
    }

    #[test]
    fn a_token_is_made_once_and_read_afterwards() {
        let scratch = Scratch::new();
        let folder = scratch.0.join("state/relatch");
        let token = token_file(&folder).unwrap();
        assert_eq!(token_file(&folder).unwrap(), token);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn keepers_that_start_together_agree_on_the_token() {
        let scratch = Scratch::new();
        let tokens: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| token_file(&scratch.0).unwrap())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(tokens.len(), 1);
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let scratch = Scratch::new();
        drop(private_file(&scratch.0.join(TOKEN_FILE)).unwrap());
        let fault = token_file(&scratch.0).unwrap_err();
        assert!(fault.to_string().contains("holds no token"), "{fault}");
    }

    #[cfg(unix)]
    #[test]
    fn what_others_can_read_or_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let folder = scratch.0.join("new");
        token_file(&folder).unwrap();
        let file = folder.join(TOKEN_FILE);
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));

        set(&file, 0o644);
        let fault = token_file(&folder).unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::PermissionDenied);
        assert!(fault.to_string().contains("0644") && fault.to_string().contains("token`"), "{fault}");

        set(&file, 0o600);
        set(&folder, 0o777);
        let fault = token_file(&folder).unwrap_err();
        assert!(fault.to_string().contains("changed by other users (mode 0777)"), "{fault}");
    }

    /// A folder of its own that goes with the test.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("relatch-origin-{}", entropy::session_id()));
            make_private_folder(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
