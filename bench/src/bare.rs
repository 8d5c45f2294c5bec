//! The least that a proxy of relatch's parts can cost: the same HTTP library and runtime, requests and answers passed as they
//! are, a connection driven by the call that it carries, one thread. It knows nothing of MCP and promises nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Driver = Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// A connection to the server, and what moves it on.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

struct Bare {
    to: SocketAddr,
    idle: Mutex<Vec<Link>>,
}

/// Passes on whatever comes, until it is killed.
pub(crate) async fn run(at: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at).await?;
    let bare = Arc::new(Bare { to, idle: Mutex::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bare = Arc::clone(&bare);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let bare = Arc::clone(&bare);
                async move {
                    let passed = bare.pass(request).await;
                    Ok::<_, Infallible>(passed.unwrap_or_else(|fault| {
                        let mut answer = Response::new(Full::from(fault.to_string()));
                        *answer.status_mut() = StatusCode::BAD_GATEWAY;
                        answer
                    }))
                }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            // Who leaves leaves.
            drop(serving.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

impl Bare {
    async fn pass(&self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (mut head, body) = request.into_parts();
        head.headers.remove(CONNECTION);
        let body = body.collect().await?.to_bytes();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut link = match idle {
            Some(link) => link,
            None => {
                let stream = TcpStream::connect(self.to).await?;
                stream.set_nodelay(true)?;
                let (sender, driver) = handshake(TokioIo::new(stream)).await?;
                Link { sender, driver }
            }
        };
        let Link { sender, driver } = &mut link;
        let answer = async {
            let (mut head, body) =
                sender.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
            head.headers.remove(TRANSFER_ENCODING);
            anyhow::Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
        };
        let (answer, open) = driven(driver, answer).await;
        let answer = answer?;
        if open {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        }
        Ok(answer)
    }
}

/// What waits for a connection moves it on; tells whether that is still open. That it has ended is told to whoever waits
/// for its answer.
async fn driven<T>(driver: &mut Driver, work: impl Future<Output = T>) -> (T, bool) {
    let mut work = pin!(work);
    let mut open = true;
    let done = std::future::poll_fn(|cx| {
        open = open && Pin::new(&mut *driver).poll(cx).is_pending();
        work.as_mut().poll(cx)
    })
    .await;
    (done, open)
}
