//! Proxies on the way to an upstream: which one, whether it is asked, and the one question that is put to it, `CONNECT`.
//!
//! http and https upstreams both go through a tunnel, so that what comes back is the server's own word, and a tunnel that
//! does not come about is proof that nothing was sent. A target on this machine is never asked for elsewhere. What a proxy's
//! address holds besides scheme, host and port is shown to nobody.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use url::{Host, Url};

use super::broken::Cause;
use super::target::{Nearness, Target};

/// The longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Through what a target is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// Nothing.
    #[default]
    None,
    /// This one, unless the target is on this machine.
    Given(ProxyAddress),
    /// What the variables of the environment say.
    Variables(Arc<Variables>),
}

/// Where a proxy is.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    host: Host<String>,
    port: u16,
    tls: bool,
    /// The value of `Proxy-Authorization`.
    credentials: Option<String>,
}

/// Why a text is not the address of a proxy. Shows nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Neither scheme.
    #[error("relatch speaks to `http://` and `https://` proxies, and not to `{0}://`")]
    Scheme(String),
    /// No URL, or one without a host.
    #[error("it is no address such as `http://proxy.example.com:3128`")]
    NoAddress,
    /// A path or a query, which no proxy ever sees.
    #[error("the address of a proxy ends with its port")]
    Path,
}

impl ProxyAddress {
    /// Reads `http://proxy:3128`, `https://user:password@proxy`, or `proxy:3128`.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn parse(text: &str) -> Result<ProxyAddress, ProxyError> {
        let text = text.trim();
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&whole).map_err(|_| ProxyError::NoAddress)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(ProxyError::Scheme(other.to_owned())),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyError::Path);
        }
        let host = url.host().ok_or(ProxyError::NoAddress)?.to_owned();
        let port = url.port_or_known_default().filter(|port| *port != 0).ok_or(ProxyError::NoAddress)?;
        let credentials = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let mut pair = decoded(url.username());
            pair.push(b':');
            pair.extend(decoded(url.password().unwrap_or_default()));
            format!("Basic {}", base64(&pair))
        });
        Ok(ProxyAddress { host, port, tls, credentials })
    }

    pub(crate) fn host(&self) -> &Host<String> {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for ProxyAddress {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the environment says of proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    http: Option<Named>,
    https: Option<Named>,
    except: Vec<Exception>,
}

/// A variable, and the proxy that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    variable: &'static str,
    proxy: Result<ProxyAddress, ProxyError>,
}

impl Variables {
    /// Reads `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in lower case before upper case. What a web server sets
    /// for a CGI program as `HTTP_PROXY` is a header of whoever asks, and is not believed.
    #[must_use]
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Variables {
        let set = |name| variable(name).filter(|value| !value.trim().is_empty());
        let named = |names: &[&'static str]| {
            names
                .iter()
                .copied()
                .find_map(|variable| Some(Named { variable, proxy: ProxyAddress::parse(&set(variable)?) }))
        };
        let cgi = variable("REQUEST_METHOD").is_some();
        let http: &[&str] = match cgi {
            true => &["http_proxy", "all_proxy", "ALL_PROXY"],
            false => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
        };
        let except = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
        Variables {
            http: named(http),
            https: named(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            except: except
                .split([',', ' '])
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(Exception::read)
                .collect(),
        }
    }
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    /// `*`
    All,
    /// `example.com`, `.example.com` or `*.example.com`: the name and all below it; with a port, only there.
    Name(String, Option<u16>),
    /// An address.
    Address(IpAddr, Option<u16>),
    /// `10.0.0.0/8`.
    Network(IpAddr, u32),
}

impl Exception {
    fn read(text: &str) -> Exception {
        if text == "*" {
            return Exception::All;
        }
        if let Some((base, bits)) = text.split_once('/')
            && let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse())
        {
            return Exception::Network(base, bits);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Exception::Address(ip, None);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
            Some(_) | None => (text, None),
        };
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Exception::Address(ip, port),
            Err(_) => {
                let name = host.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
                Exception::Name(name.to_ascii_lowercase(), port)
            }
        }
    }

    fn holds(&self, host: &Host<String>, port: u16) -> bool {
        let ip = match host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(*ip).to_canonical()),
        };
        let fits = |only: &Option<u16>| only.is_none_or(|only| only == port);
        match self {
            Exception::All => true,
            Exception::Name(name, only) => match host {
                Host::Domain(host) => {
                    let host = host.trim_end_matches('.').to_ascii_lowercase();
                    let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                    fits(only) && !name.is_empty() && (host == *name || below)
                }
                Host::Ipv4(_) | Host::Ipv6(_) => false,
            },
            Exception::Address(address, only) => fits(only) && ip == Some(address.to_canonical()),
            Exception::Network(base, bits) => ip.is_some_and(|ip| within(ip, *base, *bits)),
        }
    }
}

fn within(ip: IpAddr, base: IpAddr, bits: u32) -> bool {
    match (ip, base) {
        (IpAddr::V4(ip), IpAddr::V4(base)) => {
            bits <= 32 && (ip.to_bits() ^ base.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(base)) => {
            bits <= 128 && (ip.to_bits() ^ base.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => false,
    }
}

impl Proxy {
    /// Through which proxy this target is reached; none where straight.
    ///
    /// # Errors
    /// A variable that names none that can be asked.
    pub fn to(&self, target: &Target) -> Result<Option<&ProxyAddress>, String> {
        // Loopback by its address or name: what a name resolves to is the proxy's to find out.
        let here = target.socket().is_some() || target.is_here();
        let named = match self {
            Proxy::None => return Ok(None),
            Proxy::Given(_) | Proxy::Variables(_) if here => return Ok(None),
            Proxy::Given(address) => return Ok(Some(address)),
            Proxy::Variables(variables) => {
                let named = if target.is_tls() { &variables.https } else { &variables.http };
                let excepted = variables.except.iter().any(|entry| entry.holds(target.host(), target.port()));
                named.as_ref().filter(|_| !excepted)
            }
        };
        match named {
            None => Ok(None),
            Some(Named { proxy: Ok(proxy), .. }) => Ok(Some(proxy)),
            Some(Named { variable, proxy: Err(fault) }) => {
                Err(format!("the variable `{variable}` names no proxy that can be asked: {fault}"))
            }
        }
    }
}

/// Has a proxy connect to `target` and hand the connection over.
pub(crate) async fn tunnel<S>(wire: &mut S, proxy: &ProxyAddress, target: &Target) -> Result<(), Cause>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let to = format!("{}:{}", target.host(), target.port());
    let credentials = match &proxy.credentials {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    let asked = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{credentials}\r\n");
    let broken = |fault| Cause::NoWay(format!("the proxy `{proxy}` hung up when asked for `{to}` ({fault})"));
    wire.write_all(asked.as_bytes()).await.map_err(broken)?;
    wire.flush().await.map_err(broken)?;
    let head = head(wire).await.map_err(broken)?;
    let Some((status, reason)) = head.as_deref().and_then(status) else {
        return Err(Cause::Proxy(format!(
            "what answers at `{proxy}` is no HTTP proxy: asked for `{to}`, it said something else"
        )));
    };
    let words = match status {
        200..=299 => return Ok(()),
        407 if proxy.credentials.is_some() => {
            format!(
                "the proxy `{proxy}` refuses the credentials in its address (407) and connects to no `{to}`"
            )
        }
        407 => format!(
            "the proxy `{proxy}` wants credentials (407) before it connects to `{to}`: put them into its address, \
             `http://USER:PASSWORD@…`"
        ),
        400..=499 | 501 => {
            format!("the proxy `{proxy}` does not allow connections to `{to}` ({status}{reason})")
        }
        500.. => format!("the proxy `{proxy}` reaches no `{to}` ({status}{reason})"),
        _ => format!("the proxy `{proxy}` does not connect to `{to}` ({status}{reason})"),
    };
    // What it does not reach now, or has no room for, it may in a moment.
    let passes = matches!(status, 408 | 425 | 429 | 500 | 502..);
    Err(if passes { Cause::NoWay(words) } else { Cause::Proxy(words) })
}

/// Up to the end of the head and not a byte further: what follows is the server's.
async fn head<S: AsyncRead + Unpin>(wire: &mut S) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Ok(None);
        }
        match wire.read_u8().await {
            Ok(byte) => head.push(byte),
            // Whoever speaks no HTTP ends without such a line, too.
            Err(fault) if fault.kind() == std::io::ErrorKind::UnexpectedEof && !head.is_empty() => {
                break;
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// The status, and its words behind a blank.
fn status(head: &str) -> Option<(u16, String)> {
    let line = head.lines().next()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    let mut words = rest.splitn(3, ' ');
    words.next()?;
    let status = words.next()?.parse().ok()?;
    let reason: String =
        words.next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(80).collect();
    Some((status, if reason.is_empty() { reason } else { format!(" {reason}") }))
}

/// Text of a URL as the bytes that it stands for.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| byte == b'%') {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// As RFC 4648 has it, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

impl Target {
    /// Whether it is on this machine by its address or name, whatever other names resolve to.
    pub(crate) fn is_here(&self) -> bool {
        match self.host() {
            Host::Domain(_) => self.is_local_name(),
            Host::Ipv4(_) | Host::Ipv6(_) => self.nearness() == Nearness::Loopback,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Proxy {
        let found =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxy::Variables(Arc::new(Variables::read(found)))
    }

    fn to(proxy: &Proxy, target: &str) -> String {
        match proxy.to(&Target::parse(target).unwrap()) {
            Ok(Some(proxy)) => proxy.to_string(),
            Ok(None) => "straight".to_owned(),
            Err(words) => words,
        }
    }

    #[test]
    fn a_proxy_is_read_with_its_credentials_and_shows_none() {
        let proxy = ProxyAddress::parse("http://me:s%3Acret@proxy.example:3128/").unwrap();
        assert_eq!(proxy.to_string(), "http://proxy.example:3128");
        assert_eq!(format!("{proxy:?}"), "http://proxy.example:3128");
        assert_eq!(proxy.credentials.as_deref(), Some("Basic bWU6czpjcmV0"));
        assert_eq!(ProxyAddress::parse("proxy:8080").unwrap().to_string(), "http://proxy:8080");
        assert_eq!(ProxyAddress::parse("https://[::1]").unwrap().to_string(), "https://[::1]:443");
        for (text, words) in [
            ("socks5://me:s3cret@h", "not to `socks5://`"),
            ("http://", "no address"),
            ("", "no address"),
            ("http://me:s3cret@h/path", "ends with its port"),
            ("http://h:99999", "no address"),
        ] {
            let fault = ProxyAddress::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words) && !fault.contains("s3cret"), "{text}: {fault}");
        }
    }

    #[test]
    fn credentials_are_spelled_as_the_standard_says() {
        for (text, spelled) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}", "w78="),
        ] {
            assert_eq!(base64(text.as_bytes()), spelled);
        }
        assert_eq!(decoded("a%20b%zz%"), b"a b%zz%");
    }

    #[test]
    fn variables_name_a_proxy_by_scheme_and_never_one_for_this_machine() {
        let both = variables(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2"), ("HTTP_PROXY", "q:3")]);
        assert_eq!(to(&both, "https://a.example/mcp"), "http://s:1");
        assert_eq!(to(&both, "http://a.example/mcp"), "http://p:2");
        for here in [
            "http://127.0.0.1/",
            "https://localhost/",
            "http://[::1]:8000/",
            "http://x.localhost/",
            "unix:/a",
        ] {
            assert_eq!(to(&both, here), "straight", "{here}");
            let given = Proxy::Given(ProxyAddress::parse("p:1").unwrap());
            assert_eq!(to(&given, here), "straight", "{here}");
        }
        let all = variables(&[("ALL_PROXY", "http://a:1")]);
        assert_eq!(to(&all, "http://b.example/"), "http://a:1");
        assert_eq!(to(&all, "https://b.example/"), "http://a:1");
        // In a CGI program it comes from a header.
        let cgi = variables(&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(to(&cgi, "http://b.example/"), "straight");
        let odd = variables(&[("HTTPS_PROXY", "socks5://me:s3cret@s:1")]);
        let words = to(&odd, "https://b.example/");
        assert!(words.contains("`HTTPS_PROXY`") && !words.contains("s3cret"), "{words}");
        assert_eq!(to(&variables(&[("HTTPS_PROXY", "")]), "https://b.example/"), "straight");
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        let except = "corp.example, .dev.example,*.lab.example 10.0.0.0/8,[fd00::1],fd01::/16,192.168.1.1,p.example:8080";
        let proxy = variables(&[("ALL_PROXY", "http://a:1"), ("NO_PROXY", except)]);
        for straight in [
            "https://corp.example/",
            "https://A.Corp.Example./",
            "https://dev.example/",
            "https://a.dev.example/",
            "https://x.lab.example/",
            "http://10.1.2.3/",
            "http://[fd00::1]/",
            "http://[fd01:2::1]/",
            "http://192.168.1.1:99/",
            "http://p.example:8080/",
        ] {
            assert_eq!(to(&proxy, straight), "straight", "{straight}");
        }
        for through in [
            "https://mycorp.example/",
            "https://corp.example.org/",
            "http://11.1.2.3/",
            "http://192.168.1.2/",
            "http://[fd02::1]/",
            "http://p.example/",
        ] {
            assert_eq!(to(&proxy, through), "http://a:1", "{through}");
        }
        assert_eq!(
            to(&variables(&[("ALL_PROXY", "http://a:1"), ("no_proxy", "*")]), "https://x/"),
            "straight"
        );
        let zero = variables(&[("ALL_PROXY", "http://a:1"), ("no_proxy", "0.0.0.0/0")]);
        assert_eq!(to(&zero, "https://8.8.8.8/"), "straight");
        assert_eq!(to(&zero, "https://x/"), "http://a:1");
    }
}
