//! How a target is reached, beside its address: straight or through a proxy, by whose word it is trusted, and who knows the
//! addresses of its name.
//!
//! Only says how; the socket goes that way.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::proxy::Proxy;
use super::trust::Tls;

/// A way to a target. The default goes straight, and by the trust that all targets share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Through what.
    pub proxy: Proxy,
    /// By whose word, where not by the one that holds for all.
    pub tls: Option<Tls>,
    /// Who knows the addresses of names.
    pub names: Names,
}

impl Route {
    /// What differs from `other`, by the words of the configuration.
    #[must_use]
    pub fn changes(&self, other: &Route) -> Vec<&'static str> {
        let proxy = self.proxy != other.proxy;
        let tls = self.tls != other.tls;
        [(proxy, "proxy"), (tls, "ca, cert, key")]
            .into_iter()
            .filter_map(|(changed, word)| changed.then_some(word))
            .collect()
    }
}

/// The addresses of a name, or why there are none.
pub type Looked = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Who knows the addresses of names. Asked anew for each connection.
#[derive(Clone, Default)]
pub enum Names {
    /// The system.
    #[default]
    System,
    /// Somebody else.
    Asked(Arc<dyn Fn(&str) -> Looked + Send + Sync>),
}

impl PartialEq for Names {
    fn eq(&self, other: &Names) -> bool {
        match (self, other) {
            (Names::System, Names::System) => true,
            (Names::Asked(one), Names::Asked(other)) => Arc::ptr_eq(one, other),
            (Names::System | Names::Asked(_), _) => false,
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Names::System => "System",
            Names::Asked(_) => "Asked",
        })
    }
}
