//! What is known of an attempt that ended without its whole answer.
//!
//! Two findings: whether anything was written, and what went wrong. Decides neither whether to send again nor
//! for how long to wait; the core does, from these.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use super::socket::Peer;
use super::trust::{self, Files};

/// An attempt that has no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Broken {
    /// Whether a byte of the request may have left.
    pub wrote: Wrote,
    /// What went wrong.
    pub cause: Cause,
}

/// Whether a byte of a request was handed to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrote {
    /// Proven: not one byte.
    Nothing,
    /// Some or all of it; the server may have run it.
    Maybe,
}

/// What went wrong, in words for people: with the system's error and the address where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nobody listens. Carries the addresses that refused.
    #[error("connection refused (ECONNREFUSED {0})")]
    Refused(String),
    /// No connection in time. Carries the limit and the addresses tried.
    #[error("no connection within {0}")]
    ConnectTimeout(String),
    /// The name does not exist.
    #[error("unknown host `{0}`")]
    UnknownHost(String),
    /// The name could not be looked up now. Carries host and reason.
    #[error("name lookup gave no answer ({0})")]
    Lookup(String),
    /// No way to the address. Carries the system's error and the address.
    #[error("no route to the server ({0})")]
    Unreachable(String),
    /// Nothing is at the path of a unix socket. Carries path and error.
    #[error("no socket is there ({0})")]
    NoSocket(String),
    /// This user may not go there. Carries the address and the error.
    #[error("this user may not connect ({0})")]
    NotAllowed(String),
    /// A proxy refuses, or none can be asked: it stays so until somebody mends it. Carries words that name it and the server.
    #[error("{0}")]
    Proxy(String),
    /// A proxy is away, or does not reach the server now. Carries words that name both.
    #[error("{0}")]
    NoWay(String),
    /// TLS was refused: a certificate that is not trusted, or a peer that does not speak it.
    #[error("TLS refused: {0}")]
    Tls(String),
    /// The peer tore the connection down. Carries its address.
    #[error("connection reset (ECONNRESET {0})")]
    Reset(String),
    /// The peer closed before the answer was whole. Carries its address.
    #[error("connection closed before the answer was whole ({0})")]
    Closed(String),
    /// The answer's head is over its bound.
    #[error("the answer's head is longer than 64 KiB or has more than 100 headers")]
    HeadTooLarge,
    /// The answer is not HTTP/1.1. Carries what is wrong.
    #[error("the answer is not valid HTTP ({0})")]
    Malformed(String),
    /// Any other error of the operating system.
    #[error("connection broke ({0})")]
    Io(String),
}

impl Broken {
    pub(crate) fn unsent(cause: Cause) -> Self {
        Self { wrote: Wrote::Nothing, cause }
    }

    pub(crate) fn maybe(cause: Cause) -> Self {
        Self { wrote: Wrote::Maybe, cause }
    }
}

impl Cause {
    /// Reads a system error that happened at `at`.
    pub(crate) fn of_io(fault: &io::Error, at: &str) -> Self {
        Self::of_tls_io(fault, at, None)
    }

    /// The same on a connection that goes by these files.
    pub(crate) fn of_tls_io(fault: &io::Error, at: &str, files: Option<&Files>) -> Self {
        if let Some(tls) = within::<rustls::Error>(fault) {
            return Self::Tls(trust::why(tls, files.unwrap_or(&Files::default())));
        }
        match fault.kind() {
            ErrorKind::ConnectionRefused => Self::Refused(at.to_owned()),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset(at.to_owned()),
            ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => Self::Closed(at.to_owned()),
            ErrorKind::NetworkUnreachable => Self::Unreachable(format!("ENETUNREACH {at}")),
            ErrorKind::HostUnreachable => Self::Unreachable(format!("EHOSTUNREACH {at}")),
            ErrorKind::NetworkDown => Self::Unreachable(format!("ENETDOWN {at}")),
            ErrorKind::AddrNotAvailable => Self::Unreachable(format!("EADDRNOTAVAIL {at}")),
            ErrorKind::TimedOut => Self::Io(format!("ETIMEDOUT {at}")),
            ErrorKind::InvalidData | ErrorKind::InvalidInput => Self::Malformed(fault.to_string()),
            _ => Self::Io(format!("{fault}, {at}")),
        }
    }

    /// Reads an error of the HTTP layer on a connection to `peer`.
    pub(crate) fn of_http(fault: &hyper::Error, peer: &Peer) -> Self {
        let at = &*peer.shown;
        if fault.is_parse_too_large() {
            return Self::HeadTooLarge;
        }
        if let Some(io) = within::<io::Error>(fault) {
            return Self::of_tls_io(io, at, peer.files.as_ref());
        }
        if fault.is_parse() {
            return Self::Malformed(fault.to_string());
        }
        if fault.is_incomplete_message() || fault.is_canceled() || fault.is_closed() {
            return Self::Closed(at.to_owned());
        }
        Self::Io(format!("{fault}, {at}"))
    }
}

/// The first error of type `E` in the chain, looking inside `io::Error`s as well.
pub(crate) fn within<'a, E: StdError + 'static>(fault: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(fault);
    while let Some(fault) = next {
        if let Some(found) = fault.downcast_ref::<E>() {
            return Some(found);
        }
        // `source` of an io::Error skips the error it wraps.
        next = match fault.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => fault.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_words_with_the_system_error_and_the_address() {
        let at = "127.0.0.1:8931";
        for (kind, words) in [
            (ErrorKind::ConnectionRefused, "connection refused (ECONNREFUSED 127.0.0.1:8931)"),
            (ErrorKind::BrokenPipe, "connection reset (ECONNRESET 127.0.0.1:8931)"),
            (ErrorKind::UnexpectedEof, "connection closed before the answer was whole (127.0.0.1:8931)"),
            (ErrorKind::HostUnreachable, "no route to the server (EHOSTUNREACH 127.0.0.1:8931)"),
            (ErrorKind::TimedOut, "connection broke (ETIMEDOUT 127.0.0.1:8931)"),
        ] {
            assert_eq!(Cause::of_io(&kind.into(), at).to_string(), words);
        }
    }

    #[test]
    fn a_tls_error_is_found_inside_a_system_error() {
        let fault = io::Error::new(
            ErrorKind::InvalidData,
            rustls::Error::InvalidCertificate(rustls::CertificateError::Expired),
        );
        assert!(matches!(Cause::of_io(&fault, "x"), Cause::Tls(why) if why.contains("certificate")));
    }
}
