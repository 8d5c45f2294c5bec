//! A connection's bytes: TCP, or TLS over it, with a gauge at the lowest level.
//!
//! The gauge knows two things that HTTP libraries don't tell: how many bytes the operating system has taken, and
//! whether the peer had closed at the last moment before the first of them. Opens sockets; pools nothing.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

use super::broken::Cause;
use super::target::Target;

/// At most so many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;

/// How https upstreams are trusted. Cheap to clone; nothing is loaded before the first https connection.
#[derive(Clone, Default)]
pub struct Tls {
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Tls {
    /// Trusts what the platform trusts.
    #[must_use]
    pub fn platform() -> Self {
        Self::default()
    }

    /// Trusts what `config` says. It should offer no protocol but `http/1.1`.
    #[must_use]
    pub fn with_config(config: Arc<ClientConfig>) -> Self {
        Self { config: Arc::new(OnceLock::from(config)) }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(platform_config()?);
        Ok(self.config.get_or_init(|| config).clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("loaded", &self.config.get().is_some()).finish()
    }
}

fn platform_config() -> Result<ClientConfig, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What the lowest level saw of one connection.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    written: AtomicU64,
    look: AtomicBool,
}

impl Gauge {
    /// Bytes that the operating system took so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Before the next byte is written, look whether the peer has closed meanwhile.
    pub(crate) fn look_first(&self) {
        self.look.store(true, Ordering::Relaxed);
    }
}

/// One in a count of open sockets, for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A TCP socket with its gauge.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    gauge: Arc<Gauge>,
    _counted: Counted,
}

/// What HTTP runs over.
pub(crate) enum Wire {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// A connection just made.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) peer: SocketAddr,
}

/// Connects to `target` within `limit` for all its addresses, and within as much again for TLS.
///
/// No byte of a request is written here, so each failure is proof that nothing was sent.
pub(crate) async fn open(
    target: &Target,
    tls: &Tls,
    limit: Duration,
    open: &Arc<AtomicUsize>,
) -> Result<Opened, Cause> {
    let (tcp, peer) = connect(target, limit).await?;
    // Neither option is needed to be right, only to be quick and to notice a peer that vanished.
    let _ = tcp.set_nodelay(true);
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&probes);

    let gauge = Arc::new(Gauge::default());
    let socket = Socket { tcp, gauge: gauge.clone(), _counted: Counted::new(open) };
    let wire = if target.is_tls() {
        Wire::Tls(Box::new(secure(target, tls, limit, socket, peer).await?))
    } else {
        Wire::Plain(socket)
    };
    Ok(Opened { wire, gauge, peer })
}

async fn secure(
    target: &Target,
    tls: &Tls,
    limit: Duration,
    socket: Socket,
    peer: SocketAddr,
) -> Result<TlsStream<Socket>, Cause> {
    let config = tls.config().map_err(|fault| Cause::Tls(format!("the platform's trust store: {fault}")))?;
    let name = match target.host() {
        Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| Cause::Tls(format!("no certificate can be for `{name}`")))?,
        Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
    };
    match timeout(limit, TlsConnector::from(config).connect(name, socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(fault)) => Err(Cause::of_io(&fault, &peer.to_string())),
        Err(_) => Err(Cause::ConnectTimeout(format!("{} (TLS with {peer})", shown(limit)))),
    }
}

async fn connect(target: &Target, limit: Duration) -> Result<(TcpStream, SocketAddr), Cause> {
    let deadline = Instant::now() + limit;
    let addresses = addresses(target, deadline, limit).await?;
    let mut refused = Vec::new();
    let mut silent = Vec::new();
    let mut other = None;
    for (tried, &at) in addresses.iter().enumerate() {
        // Each address gets its share of what is left, so that a silent first one can't eat it all.
        let left = addresses.len() - tried;
        let share = deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(1);
        match timeout(share, TcpStream::connect(at)).await {
            Ok(Ok(tcp)) => return Ok((tcp, at)),
            Ok(Err(fault)) if fault.kind() == ErrorKind::ConnectionRefused => refused.push(at.to_string()),
            Ok(Err(fault)) => {
                other.get_or_insert_with(|| Cause::of_io(&fault, &at.to_string()));
            }
            Err(_) => silent.push(at.to_string()),
        }
    }
    // Said is what tells most: a refusal means that the machine is there.
    if !refused.is_empty() {
        return Err(Cause::Refused(refused.join(", ")));
    }
    if !silent.is_empty() {
        return Err(Cause::ConnectTimeout(format!("{} ({})", shown(limit), silent.join(", "))));
    }
    Err(other.unwrap_or_else(|| Cause::UnknownHost(target.host().to_string())))
}

async fn addresses(target: &Target, deadline: Instant, limit: Duration) -> Result<Vec<SocketAddr>, Cause> {
    let port = target.port();
    let name = match target.host() {
        Host::Ipv4(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Ipv6(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Domain(_) if target.is_local_name() => {
            let both = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
            return Ok(both.map(|ip| SocketAddr::new(ip, port)).to_vec());
        }
        Host::Domain(name) => name,
    };
    let found = match timeout_at(deadline, tokio::net::lookup_host((name.as_str(), port))).await {
        Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect::<Vec<_>>(),
        // The resolver's codes are lost on the way; a failure that passes says so in its text.
        Ok(Err(fault)) if fault.to_string().contains("emporary failure") => {
            return Err(Cause::Lookup(format!("`{name}`: {fault}")));
        }
        Ok(Err(_)) => return Err(Cause::UnknownHost(name.clone())),
        Err(_) => return Err(Cause::Lookup(format!("`{name}`: nothing within {}", shown(limit)))),
    };
    if found.is_empty() {
        return Err(Cause::UnknownHost(name.clone()));
    }
    target.learn(&found);
    Ok(found)
}

fn shown(limit: Duration) -> String {
    format!("{limit:?}")
}

impl Socket {
    /// Asks the operating system itself. tokio answers from the last event it took, and a close that came since
    /// then would cost a request whose fate nobody knows.
    fn look(&self) -> io::Result<()> {
        if !self.gauge.look.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        match SockRef::from(&self.tcp).peek(&mut [MaybeUninit::uninit()]) {
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            // An end, an error, or bytes that nobody asked for (a 408, a TLS goodbye).
            Ok(_) | Err(_) => Err(io::Error::new(ErrorKind::ConnectionAborted, "closed while idle")),
        }
    }

    fn count(&self, written: usize) {
        self.gauge.written.fetch_add(written as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, from))?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, from))?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, from),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
