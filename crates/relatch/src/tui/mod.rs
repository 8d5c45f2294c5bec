//! The terminal view of all keepers: reads keys and answers, and draws. `model` holds what is known and what a key does,
//! `view` draws it, `watch` asks the keepers, `screen` has the terminal and gives it back.
//!
//! It computes no health: every word about an upstream comes from `render`, as in `relatch status`.

pub(crate) mod dev;
mod model;
mod picture;
mod screen;
#[cfg(test)]
mod stage;
mod table;
mod text;
mod view;
mod watch;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::model::{Model, Wish};
use self::screen::Screen;
pub(crate) use self::screen::restore;
use self::view::Sight;
use self::watch::Watch;
use crate::render::{Failure, Style};

/// How often keepers are looked for, and what they told is drawn.
const LOOK: Duration = Duration::from_millis(250);

/// Shows the keepers whose sockets are in `dir`, until somebody has seen enough.
pub(crate) async fn run(dir: &Path, style: Style) -> Result<(), Failure> {
    let mut screen = Screen::raise().map_err(|cause| no_terminal(&cause))?;
    let (mut model, mut keys) = (Model::default(), keys());
    let (mut watch, mut news) = Watch::new(dir);
    let ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = ends.map(signal);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let draws = tokio::select! {
            () = told(&mut interrupt) => return Ok(()),
            () = told(&mut terminate) => return Ok(()),
            () = told(&mut hangup) => return Ok(()),
            _ = look.tick() => {
                model.readable(watch.look());
                true
            }
            Some(told) = news.recv() => {
                watch.learn(&told);
                model.learn(told, Timestamp::now());
                false
            }
            event = keys.recv() => {
                match event {
                    Some(Ok(Event::Key(key))) => match model.key(key, Timestamp::now()) {
                        Some(Wish::Quit) => return Ok(()),
                        Some(Wish::Redraw) => screen.clear().map_err(lost)?,
                        Some(Wish::Reconnect { pid, name }) => watch.reconnect(pid, name),
                        None => {}
                    },
                    // Another size, for one.
                    Some(Ok(_)) => {}
                    Some(Err(cause)) => return Err(lost(cause)),
                    None => return Ok(()),
                }
                true
            }
        };
        if !draws {
            continue;
        }
        let sight = Sight { now: Timestamp::now(), zone: TimeZone::system(), style };
        let seen = screen.draw(|frame| view::draw(frame, &model, &sight)).map_err(lost)?;
        model.seen(seen);
    }
}

/// What is typed, read by a thread of its own, which ends with the program.
fn keys() -> mpsc::Receiver<std::io::Result<Event>> {
    let (out, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let over = event.is_err();
            if out.blocking_send(event).is_err() || over {
                return;
            }
        }
    });
    keys
}

/// A signal that the system gives no place for never comes.
async fn told(signal: &mut std::io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

fn lost(cause: std::io::Error) -> Failure {
    Failure::new("The terminal can't be drawn on any more").cause(cause)
}

fn no_terminal(cause: &std::io::Error) -> Failure {
    Failure::new("The terminal can't be drawn on").cause(cause).hint("Use `relatch status`")
}
