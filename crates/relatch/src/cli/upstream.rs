//! The options that `stdio` and `serve` have in common: how relatch treats the upstream behind it.

use clap::{Args, ValueEnum};

use super::parse;
use crate::launch::{Place, ServerSpec};
use crate::render::Failure;

#[derive(Debug, Args)]
pub(crate) struct Treatment {
    /// Send a header with every request to the server; may be repeated. `${NAME}` in it is filled in from the
    /// environment: what stands on a command line can be seen by others. Where `serve` has several servers, write
    /// `NAME=K:V`
    #[arg(long = "header", value_name = "K:V")]
    pub(crate) headers: Vec<String>,

    /// How long a call waits while its server is away, such as `500ms`, `45s` or `5m`
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = parse::duration)]
    hold: u64,

    /// The server's sessions hold work (a browser, a transaction): after a relatch, calls are given back instead of
    /// being run against an empty session
    #[arg(long)]
    stateful: bool,

    /// Whether a tool that may have run is called again: always or never, by name or pattern, such as
    /// `search_*=always`; may be repeated, the first match counts. Without a match its annotations decide
    #[arg(long, value_name = "GLOB=always|never", value_parser = parse::replay)]
    replay: Vec<(String, bool)>,

    /// `refused`: the proxy in front answers 502, 503 and 504 only when no server was behind it
    #[arg(long, value_name = "MEANING")]
    gateway_errors: Option<GatewayErrors>,

    /// Add the tool and the prompt `relatch_status` to what the server offers, so that user and model can ask inside the
    /// client how the connection is, and log there when it is lost and back
    #[arg(long)]
    tell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GatewayErrors {
    /// No server was reached, so the call did not run
    Refused,
}

impl Treatment {
    /// One upstream with these options and with headers that were picked for it.
    pub(crate) fn spec(&self, name: String, place: Place, headers: Vec<(String, String)>) -> ServerSpec {
        ServerSpec {
            name,
            place,
            headers,
            hold_ms: self.hold,
            stateful: self.stateful,
            replay: self.replay.clone(),
            gateway_errors_refused: self.gateway_errors == Some(GatewayErrors::Refused),
            tell: self.tell,
        }
    }

    /// The headers, for a keeper of one upstream.
    pub(crate) fn headers(&self) -> Result<Vec<(String, String)>, Failure> {
        self.headers.iter().map(|text| parse::header(text)).collect()
    }
}
