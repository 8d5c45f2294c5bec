//! From a host to a TCP connection: its name is looked up anew each time, and every address is tried.
//!
//! A second address is tried beside the first when that has not answered within a moment, so that one that is silent costs
//! little; addresses of both families take turns (RFC 8305, in a simple form).

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Host;

use super::broken::Cause;
use super::route::Names;
use super::target::is_local;

/// At most so many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;
/// An address has so long before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// The addresses of a host, in the order in which they are tried. Those of a name are what it has now.
pub(crate) async fn addresses(
    host: &Host<String>,
    port: u16,
    names: &Names,
    deadline: Instant,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Cause> {
    let name = match host {
        Host::Ipv4(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Ipv6(ip) => return Ok(vec![SocketAddr::from((*ip, port))]),
        Host::Domain(name) if is_local(name) => {
            let both = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
            return Ok(both.map(|ip| SocketAddr::new(ip, port)).to_vec());
        }
        Host::Domain(name) => name,
    };
    let looked = async {
        match names {
            Names::System => {
                let found = tokio::net::lookup_host((name.as_str(), port)).await?;
                Ok(found.collect::<Vec<_>>())
            }
            Names::Asked(ask) => {
                let found = ask(name).await?;
                Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
            }
        }
    };
    let found = match timeout_at(deadline, looked).await {
        Ok(Ok(found)) => in_turns(found),
        // The resolver's codes are lost on the way; a failure that passes says so in its text.
        Ok(Err(fault)) if io::Error::to_string(&fault).contains("emporary failure") => {
            return Err(Cause::Lookup(format!("`{name}`: {fault}")));
        }
        Ok(Err(_)) => return Err(Cause::UnknownHost(name.clone())),
        Err(_) => return Err(Cause::Lookup(format!("`{name}`: nothing within {limit:?}"))),
    };
    if found.is_empty() {
        return Err(Cause::UnknownHost(name.clone()));
    }
    Ok(found)
}

/// The first address's family first, then both in turns: a family that leads nowhere holds up one address only.
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().map(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| Some(at.is_ipv6()) == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    while turns.len() < MAX_ADDRESSES {
        let before = turns.len();
        turns.extend(one.next());
        turns.extend(other.next());
        if turns.len() == before {
            break;
        }
    }
    turns.truncate(MAX_ADDRESSES);
    turns
}

type Dialing = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connects to the first of these addresses that answers.
pub(crate) async fn connect(
    addresses: &[SocketAddr],
    deadline: Instant,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), Cause> {
    let mut next = addresses.iter().copied();
    let mut running: Vec<(SocketAddr, Dialing)> = Vec::new();
    let mut refused = Vec::new();
    let mut other = None;
    let mut begin = Instant::now();
    loop {
        if (running.is_empty() || begin <= Instant::now())
            && let Some(at) = next.next()
        {
            running.push((at, Box::pin(TcpStream::connect(at))));
            begin = Instant::now() + HEAD_START;
        }
        if running.is_empty() {
            break;
        }
        let (at, done) = tokio::select! {
            done = first_of(&mut running) => done,
            () = sleep_until(begin), if next.len() > 0 => continue,
            () = sleep_until(deadline) => break,
        };
        match done {
            Ok(tcp) => return Ok((tcp, at)),
            Err(fault) if fault.kind() == ErrorKind::ConnectionRefused => refused.push(at.to_string()),
            Err(fault) => {
                other.get_or_insert_with(|| Cause::of_io(&fault, &at.to_string()));
            }
        }
        // Its place is the next one's at once.
        begin = Instant::now();
    }
    // Said is what tells most: a refusal means that the machine is there.
    if !refused.is_empty() {
        return Err(Cause::Refused(refused.join(", ")));
    }
    if !running.is_empty() {
        let silent: Vec<String> = running.iter().map(|(at, _)| at.to_string()).collect();
        return Err(Cause::ConnectTimeout(format!("{limit:?} ({})", silent.join(", "))));
    }
    Err(other.unwrap_or_else(|| Cause::Lookup("no address".to_owned())))
}

async fn first_of(running: &mut Vec<(SocketAddr, Dialing)>) -> (SocketAddr, io::Result<TcpStream>) {
    std::future::poll_fn(|cx| {
        for index in 0..running.len() {
            if let Poll::Ready(done) = running[index].1.as_mut().poll(cx) {
                let (at, _) = running.swap_remove(index);
                return Poll::Ready((at, done));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_the_first_one_stays_first() {
        let found = vec![at("[::1]:1"), at("[::2]:1"), at("[::3]:1"), at("1.1.1.1:1")];
        assert_eq!(in_turns(found), [at("[::1]:1"), at("1.1.1.1:1"), at("[::2]:1"), at("[::3]:1")]);
        assert_eq!(in_turns(Vec::new()), []);
        let many: Vec<_> = (1..20).map(|n| SocketAddr::from(([127, 0, 0, n], 1))).collect();
        assert_eq!(in_turns(many).len(), MAX_ADDRESSES);
    }
}
