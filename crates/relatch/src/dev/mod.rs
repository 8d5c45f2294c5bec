//! `relatch dev`: runs a server that somebody is making, and starts it again whenever its code changes, behind a keeper
//! whose clients don't notice.
//!
//! `files` sees changes, `shop` decides what follows and does it, `web` starts a server that has an address, `clients` has the
//! keeper hold, move and renew, `news` is what is told of all this. `render::dev` has the words, `tui::dev` the view.

mod clients;
pub(crate) mod files;
pub(crate) mod news;
pub(crate) mod shop;
pub(crate) mod teller;
pub(crate) mod web;

use std::sync::Arc;

use jiff::Timestamp;
use relatch_admin::Keeper as _;
use relatch_core::journal::What;
use relatch_net::tap::{Seen, Sights};
use tokio::sync::{broadcast, mpsc, watch};

use self::clients::Clients;
use self::files::{Picture, Rules};
use self::news::{Event, News, Wish};
use self::shop::{Kind, Plan, Shop};
use self::teller::Teller;
use crate::keeper::Running;
use crate::launch::ServerSpec;
use crate::render::{self, Failure, Style};
use crate::tui;

/// Everything that `relatch dev` was told, checked.
pub(crate) struct Dev {
    pub(crate) plan: Plan,
    pub(crate) server: ServerSpec,
    pub(crate) rules: Rules,
    pub(crate) picture: Picture,
    /// Lines instead of the view.
    pub(crate) plain: bool,
    /// A client speaks on stdin and stdout, so that words go to stderr.
    pub(crate) stdio: bool,
}

/// Wishes of who looks on that may wait.
const WISHES: usize = 16;

/// Runs the server beside its keeper until somebody has seen enough.
///
/// # Errors
/// When files can't be watched, or the terminal can't be drawn on.
pub(crate) async fn run(dev: Dev, running: Running, stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    let Dev { plan, server, rules, picture, plain, stdio } = dev;
    let Running { keeper, face, journal, listening } = running;
    let (teller, mut news) = Teller::new();
    let name = server.name.clone();
    if let Some(sights) = keeper.look_on() {
        tokio::spawn(pass_on(sights, teller.clone(), matches!(plan.kind, Kind::Stdio(_))));
    }
    let (_, entries) = journal.follow(Some(Timestamp::now()));
    tokio::spawn(note(entries, teller.clone()));
    teller.say(Event::Watches { roots: rules.roots().to_vec(), files: picture.count() });
    let changes = files::watch(rules, picture)?;
    let (wishes, wished) = mpsc::channel(WISHES);
    let shop =
        Shop::new(plan, Clients::new(Arc::clone(&keeper), server), teller.clone(), changes, wished, stopped);
    let mut shop = std::pin::pin!(shop.run());
    if let Some(listening) = &listening {
        // Under a view it stands there in one piece when that is gone.
        render::dev::listening(listening);
    }
    if plain {
        let style = if stdio { Style::stderr() } else { Style::stdout() };
        let mut lines = render::dev::Lines::new(style, stdio);
        // Nothing is wished for by keys here; a channel that is closed would be a wish to quit.
        let _wishes = wishes;
        loop {
            tokio::select! {
                () = &mut shop => break,
                Some(news) = news.recv() => lines.print(&news, teller.take_missed()),
            }
        }
        while let Ok(news) = news.try_recv() {
            lines.print(&news, 0);
        }
        lines.end();
        return Ok(());
    }
    let board = tui::dev::Board::new(name.clone(), listening);
    let status = || face.status().servers.into_iter().find(|server| server.name == name);
    let mut view = std::pin::pin!(tui::dev::run(board, &mut news, &teller, wishes, status, Style::stdout()));
    tokio::select! {
        // It ends when the workshop has: the wish to quit goes there.
        outcome = &mut view => {
            shop.await;
            outcome
        }
        () = &mut shop => Ok(()),
    }
}

/// Tells what is seen of calls and processes.
async fn pass_on(mut sights: Sights, teller: Teller, stdio: bool) {
    while let Some(seen) = sights.next().await {
        teller.missed(sights.missed());
        match seen {
            Seen::Asked { call, method, tool } => {
                teller.tell(News::Asked { at: Timestamp::now(), call, method, tool });
            }
            Seen::Ended { call, ms, outcome, failed } => {
                teller.tell(News::Ended { call, ms, outcome, failed });
            }
            Seen::Said { line } if stdio => teller.server(&line),
            Seen::Exited { words, told: false, .. } if stdio => {
                teller.say(Event::Exited { words, again_ms: None });
            }
            Seen::Said { .. } | Seen::Started { .. } | Seen::Exited { .. } => {}
        }
    }
}

/// Tells what somebody who makes a server wants to know of the journal; the rest is `relatch log`'s.
async fn note(mut entries: broadcast::Receiver<Arc<relatch_admin::Dated>>, teller: Teller) {
    loop {
        match entries.recv().await {
            Ok(entry) => {
                if telling(entry.entry.what) {
                    teller.say(Event::Journal((*entry).clone()));
                }
            }
            Err(broadcast::error::RecvError::Lagged(count)) => teller.missed(count),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn telling(what: What) -> bool {
    match what {
        What::Attached
        | What::Left
        | What::Resent
        | What::Flapping
        | What::GivenBack
        | What::DeliveryUnknown
        | What::CredentialsRefused
        | What::ListChanged
        | What::FromCopy
        | What::Skipped => true,
        // They are the same restart, once more.
        What::Lost
        | What::Suspected
        | What::Cleared
        | What::Probed
        | What::Relatched
        | What::Latched
        | What::Away
        | What::Back
        | What::Held
        | What::HoldEnded
        | What::Reconnect
        | What::Paused
        | What::Resumed
        | What::Restarting
        | What::Stayed
        | What::Configured
        | What::Added
        | What::Removed
        | What::ReloadRefused
        | What::HookFailed
        | What::Woke => false,
    }
}

/// What somebody at the terminal wants goes to the workshop.
pub(crate) type Wishes = mpsc::Sender<Wish>;
