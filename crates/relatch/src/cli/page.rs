//! `relatch page`: opens the page of a running `relatch serve`, signed in.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use relatch_admin::link::KeeperLink;
use relatch_admin::{KeeperKind, KeeperStatus};

use super::ask;
use crate::exit;
use crate::render::{self, Failure};

/// A browser that has been told and hangs on is a browser that runs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Open the page of `relatch serve` in the browser, signed in
#[derive(Debug, Args)]
#[command(
    after_help = "Needs a running `relatch serve`. The address works once, and for a minute; it signs the browser \
in for 12 hours.

Examples:
  relatch page
  relatch page gmail         where several run, that of `gmail`'s keeper
  relatch page --print       only the address, to be opened by hand"
)]
pub(crate) struct Arguments {
    /// A server of the keeper whose page is meant [default: the only keeper that serves]
    name: Option<String>,

    /// Print the address and open nothing
    #[arg(long)]
    print: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let keeper = keeper(arguments.name.as_deref()).await?;
    let trouble = |cause| Failure::new("The keeper gives no address of its page").cause(cause);
    let address = keeper.page().await.map_err(|cause| trouble(cause.to_string()))?;
    let address = address.ok_or_else(|| trouble("it has no page yet".to_owned()))?;
    if arguments.print {
        let _ = render::out(&format!("{address}\n"));
    } else if opened(&address) {
        render::say("The page opens in the browser\n");
    } else {
        render::say(
            "No browser could be started here; this address opens the page, once and within a minute:\n",
        );
        let _ = render::out(&format!("{address}\n"));
    }
    Ok(ExitCode::from(exit::DONE))
}

/// The one keeper that has a page, or the one that has a page and this server.
async fn keeper(name: Option<&str>) -> Result<KeeperLink, Failure> {
    let status = ask::status().await?;
    let pages = status.keepers.iter().filter(|keeper| keeper.kind == KeeperKind::Serve);
    let has = |keeper: &&KeeperStatus| {
        name.is_none_or(|name| keeper.servers.iter().any(|server| server.name == name))
    };
    let found: Vec<&KeeperStatus> = pages.clone().filter(has).collect();
    let pid = match found[..] {
        [keeper] => keeper.pid,
        [] if name.is_some() && pages.clone().next().is_some() => {
            return Err(ask::unknown_name(name.unwrap_or_default(), &status));
        }
        [] => {
            return Err(Failure::new("No keeper that runs has a page")
                .hint("Start one with `relatch serve NAME=URL`")
                .exit(exit::NO_KEEPER));
        }
        [first, ..] => {
            let hint = first.servers.first().map_or(String::new(), |server| {
                format!("Name a server of the one that is meant: `relatch page {}`", server.name)
            });
            return Err(Failure::usage("Several keepers have a page").hint(hint));
        }
    };
    let link = ask::keepers().await?.into_iter().find(|keeper| keeper.pid == pid);
    link.ok_or_else(|| {
        Failure::new(format!("The keeper, process {pid}, has just ended")).exit(exit::NO_KEEPER)
    })
}

/// Hands the address to the desktop, as an argument of its own and without a shell.
fn opened(address: &str) -> bool {
    let mac = cfg!(target_os = "macos");
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // Without a screen, `xdg-open` would start a text browser in this terminal, or nothing.
    if !mac && !set("DISPLAY") && !set("WAYLAND_DISPLAY") {
        return false;
    }
    let opener = if mac { "open" } else { "xdg-open" };
    let (none, out, err) = (Stdio::null(), Stdio::null(), Stdio::null());
    let Ok(mut child) = Command::new(opener).arg(address).stdin(none).stdout(out).stderr(err).spawn() else {
        return false;
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return false,
        }
    }
    true
}
