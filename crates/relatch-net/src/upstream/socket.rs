//! A connection's bytes: TCP or a unix socket, and TLS over it, with a gauge at the lowest level.
//!
//! The gauge knows two things that HTTP libraries don't tell: how many bytes the operating system has taken, and
//! whether the peer had closed at the last moment before the first of them. Opens sockets; pools nothing.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

use super::broken::Cause;
use super::connect::{addresses, connect};
use super::proxy::{self, ProxyAddress};
use super::route::{Names, Route};
use super::target::Target;
use super::trust::{self, Files, Tls};

/// A peer that has said nothing for so long is asked whether it is there, and again after each [`PROBE`].
const QUIET: Duration = Duration::from_secs(20);
/// See [`QUIET`].
const PROBE: Duration = Duration::from_secs(10);
/// A peer that lets bytes or probes go without a sign for so long has vanished. Without it the system would send a request
/// again and again for a quarter of an hour; a machine that was moved from one network to another is heard of again sooner.
#[cfg(any(target_os = "linux", target_os = "android"))]
const VANISHED: Duration = Duration::from_secs(40);
/// A server that wants to know who relatch is has so long to refuse what it was shown.
const REFUSAL: Duration = Duration::from_millis(250);

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

/// A socket with its gauge.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    gauge: Arc<Gauge>,
    _counted: Counted,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What HTTP runs over.
pub(crate) enum Wire {
    Plain(Socket),
    Tls(Box<TlsStream<Wire>>),
}

/// A connection just made.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) peer: Peer,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// For words: an address, a path, or a host behind a proxy.
    pub(crate) shown: Arc<str>,
    /// Its address, and all that its name has now; none behind a proxy and at a unix socket.
    pub(crate) address: Option<(SocketAddr, Arc<[SocketAddr]>)>,
    /// By what it was trusted.
    pub(crate) files: Option<Files>,
}

/// Connects to `target` within `limit` for all its addresses, and within as much again for each further step: a proxy's
/// tunnel, and TLS.
///
/// No byte of a request is written here, so each failure is proof that nothing was sent.
pub(crate) async fn open(
    target: &Target,
    route: &Route,
    tls: &Tls,
    limit: Duration,
    open: &Arc<AtomicUsize>,
) -> Result<Opened, Cause> {
    let gauge = Arc::new(Gauge::default());
    let socket = |stream| Socket { stream, gauge: Arc::clone(&gauge), _counted: Counted::new(open) };
    if let Some(path) = target.socket() {
        let wire = Wire::Plain(socket(Stream::Unix(at_path(path, limit).await?)));
        let peer = Peer { shown: path.display().to_string().into(), address: None, files: None };
        return Ok(Opened { wire, gauge, peer });
    }
    let (mut wire, mut peer) = match route.proxy.to(target).map_err(Cause::Proxy)? {
        None => {
            let (tcp, peer) = over_tcp(target.host(), target.port(), &route.names, limit).await?;
            if let Some((_, all)) = &peer.address {
                target.learn(all);
            }
            (Wire::Plain(socket(Stream::Tcp(tcp))), peer)
        }
        Some(proxy) => {
            let (tcp, _) = over_tcp(proxy.host(), proxy.port(), &route.names, limit)
                .await
                .map_err(|cause| no_way(proxy, target, &cause))?;
            let wire = through(Wire::Plain(socket(Stream::Tcp(tcp))), proxy, target, limit).await?;
            let shown = format!("{}:{} by {proxy}", target.host(), target.port()).into();
            (wire, Peer { shown, address: None, files: None })
        }
    };
    if target.is_tls() {
        let tls = route.tls.as_ref().unwrap_or(tls);
        let secured = secure(wire, target.host(), tls, limit, &peer.shown).await?;
        wire = Wire::Tls(Box::new(secured));
        peer.files = Some(tls.files().clone());
    }
    Ok(Opened { wire, gauge, peer })
}

async fn at_path(path: &Path, limit: Duration) -> Result<UnixStream, Cause> {
    let shown = path.display();
    match timeout(limit, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(fault)) => Err(match fault.kind() {
            ErrorKind::NotFound => Cause::NoSocket(format!("{shown}, ENOENT")),
            ErrorKind::PermissionDenied => Cause::NotAllowed(format!("{shown}, EACCES")),
            // The queue of those who wait to be let in is full.
            ErrorKind::WouldBlock => {
                Cause::ConnectTimeout(format!("the room of its queue ({shown}, EAGAIN)"))
            }
            _ => Cause::of_io(&fault, &shown.to_string()),
        }),
        Err(_) => Err(Cause::ConnectTimeout(format!("{limit:?} ({shown})"))),
    }
}

async fn over_tcp(
    host: &Host<String>,
    port: u16,
    names: &Names,
    limit: Duration,
) -> Result<(TcpStream, Peer), Cause> {
    let deadline = Instant::now() + limit;
    let all = addresses(host, port, names, deadline, limit).await?;
    let (tcp, at) = connect(&all, deadline, limit).await?;
    // None of these is needed to be right, only to be quick and to notice a peer that vanished.
    let _ = tcp.set_nodelay(true);
    let socket = SockRef::from(&tcp);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(QUIET).with_interval(PROBE));
    // Nobody vanishes on this machine, and one that is stopped at a breakpoint may take its time to read.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if !at.ip().to_canonical().is_loopback() {
        let _ = socket.set_tcp_user_timeout(Some(VANISHED));
    }
    Ok((tcp, Peer { shown: at.to_string().into(), address: Some((at, all.into())), files: None }))
}

/// Through a proxy's tunnel, over TLS where the proxy speaks it.
async fn through(wire: Wire, proxy: &ProxyAddress, target: &Target, limit: Duration) -> Result<Wire, Cause> {
    let mut wire = match proxy.is_tls() {
        false => wire,
        true => {
            let shown = proxy.to_string();
            let secured = secure(wire, proxy.host(), &Tls::platform(), limit, &shown).await;
            Wire::Tls(Box::new(secured.map_err(|cause| no_way(proxy, target, &cause))?))
        }
    };
    // Whom the proxy has to find and to reach in turn gets twice the time.
    match timeout(limit * 2, proxy::tunnel(&mut wire, proxy, target)).await {
        Ok(Ok(())) => Ok(wire),
        Ok(Err(cause)) => Err(cause),
        Err(_) => Err(no_way(proxy, target, &Cause::ConnectTimeout(format!("{:?}", limit * 2)))),
    }
}

fn no_way(proxy: &ProxyAddress, target: &Target, cause: &Cause) -> Cause {
    let to = format!("{}:{}", target.host(), target.port());
    let words = format!("the proxy `{proxy}` gives no way to `{to}`: {cause}");
    match cause {
        Cause::Tls(_) | Cause::UnknownHost(_) => Cause::Proxy(words),
        _ => Cause::NoWay(words),
    }
}

async fn secure(
    wire: Wire,
    host: &Host<String>,
    tls: &Tls,
    limit: Duration,
    shown: &str,
) -> Result<TlsStream<Wire>, Cause> {
    let ready = tls.ready().await?;
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| Cause::Tls(format!("no certificate can be for `{name}`")))?,
        Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
    };
    let deadline = Instant::now() + limit;
    let mut stream =
        match timeout_at(deadline, TlsConnector::from(Arc::clone(&ready.config)).connect(name, wire)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(fault)) => return Err(Cause::of_tls_io(&fault, shown, Some(tls.files()))),
            Err(_) => return Err(Cause::ConnectTimeout(format!("{limit:?} (TLS with {shown})"))),
        };
    if ready.is_in_doubt() {
        let mut nothing = [0; 1];
        let mut into = ReadBuf::new(&mut nothing);
        let said = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut into));
        match timeout(REFUSAL, said).await {
            Ok(Err(fault)) => return Err(Cause::of_tls_io(&fault, shown, Some(tls.files()))),
            Ok(Ok(())) => return Err(Cause::Closed(shown.to_owned())),
            Err(_) => ready.settle(),
        }
    }
    Ok(stream)
}

/// Whether a fault is a server's no to relatch's certificate, which comes before it looks at what was sent.
pub(crate) fn refuses_client(fault: &hyper::Error) -> bool {
    super::broken::within::<rustls::Error>(fault).is_some_and(trust::refuses_client)
}

impl Socket {
    /// Asks the operating system itself. tokio answers from the last event it took, and a close that came since
    /// then would cost a request whose fate nobody knows.
    fn look(&self) -> io::Result<()> {
        if !self.gauge.look.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let socket = match &self.stream {
            Stream::Tcp(tcp) => SockRef::from(tcp),
            Stream::Unix(unix) => SockRef::from(unix),
        };
        match socket.peek(&mut [MaybeUninit::uninit()]) {
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
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, into),
            Stream::Unix(unix) => Pin::new(unix).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        let written = ready!(match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, from),
            Stream::Unix(unix) => Pin::new(unix).poll_write(cx, from),
        })?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        let written = ready!(match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, from),
            Stream::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, from),
        })?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(tcp) => tcp.is_write_vectored(),
            Stream::Unix(unix) => unix.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
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
