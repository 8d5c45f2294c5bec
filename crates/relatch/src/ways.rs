//! From what was configured of the way to a server to a route that leads there. Where nothing was, the environment says.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use relatch_net::upstream::dial::{Target, Tls};
use relatch_net::upstream::proxy::{Proxy, ProxyAddress, Variables};
use relatch_net::upstream::route::Route;
use relatch_net::upstream::trust::{Files, Identity};

use crate::launch::Ways;
use crate::render::Failure;

/// The way to `target`, which is `server` for people.
pub(crate) fn route(server: &str, target: &Target, ways: &Ways) -> Result<Route, Failure> {
    Ok(Route { proxy: proxy(server, target, ways)?, tls: tls(server, target, ways)?, ..Route::default() })
}

/// The way of what nobody has configured one for.
pub(crate) fn usual() -> Route {
    Route { proxy: Proxy::Variables(variables()), ..Route::default() }
}

/// A server that is a command has no way.
pub(crate) fn of_command(server: &str, ways: &Ways) -> Result<(), Failure> {
    match *ways == Ways::default() {
        true => Ok(()),
        false => Err(Failure::usage(format!("`{server}` is a command, and has no way that could be set"))
            .cause("`ca`, `cert`, `key` and `proxy` are for servers with an address")
            .hint("Take them out")),
    }
}

fn proxy(server: &str, target: &Target, ways: &Ways) -> Result<Proxy, Failure> {
    let proxy = match ways.proxy.as_deref() {
        None => return Ok(Proxy::Variables(variables())),
        Some("none") => return Ok(Proxy::None),
        Some(text) => Proxy::Given(ProxyAddress::parse(text).map_err(|fault| {
            Failure::usage(format!("The proxy of `{server}` can't be asked")).cause(fault)
        })?),
    };
    match proxy.to(target) {
        Ok(Some(_)) => Ok(proxy),
        Ok(None) | Err(_) => Err(Failure::usage(format!("A proxy on the way to `{server}` makes no sense"))
            .cause(format!("`{target}` is on this machine, and is reached straight"))
            .hint("Leave `proxy` out")),
    }
}

fn tls(server: &str, target: &Target, ways: &Ways) -> Result<Option<Tls>, Failure> {
    let Ways { ca, cert, key, proxy: _ } = ways;
    let identity = match (cert, key) {
        (Some(cert), key) => Some(Identity { cert: cert.clone(), key: key.as_ref().unwrap_or(cert).clone() }),
        (None, None) => None,
        (None, Some(_)) => {
            return Err(Failure::usage(format!("`{server}` has a `key` and no `cert`"))
                .hint("Name the file of the certificate that the key belongs to"));
        }
    };
    if ca.is_none() && identity.is_none() {
        return Ok(None);
    }
    if !target.is_tls() {
        let given: Vec<&str> = [("ca", ca), ("cert", cert), ("key", key)]
            .into_iter()
            .filter_map(|(name, path): (&str, &Option<PathBuf>)| path.as_ref().map(|_| name))
            .collect();
        return Err(Failure::usage(format!("`{server}` speaks no TLS"))
            .cause(format!("`{}` is for `https`, and the address is `{target}`", given.join("`, `")))
            .hint("Use the `https` address, or take it out"));
    }
    let tls = Tls::with_files(Files { ca: ca.clone(), identity });
    tls.check().map_err(|fault| {
        Failure::usage(format!("The certificates for `{server}` can't be used"))
            .hint(fault.hint())
            .cause(fault)
    })?;
    Ok(Some(tls))
}

/// What the environment says, read once.
fn variables() -> Arc<Variables> {
    static VARIABLES: OnceLock<Arc<Variables>> = OnceLock::new();
    Arc::clone(VARIABLES.get_or_init(|| Arc::new(Variables::read(|name| std::env::var(name).ok()))))
}
