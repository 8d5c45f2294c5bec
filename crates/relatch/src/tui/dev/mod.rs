//! The view of `relatch dev`: the server's log, its health and its calls side by side. Reads keys and news, and draws; `board`
//! holds what is known, `view` draws it.

mod board;
mod view;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::Event;
use relatch_admin::ServerStatus;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::board::Board;
use self::board::Key;
use super::screen::Screen;
use super::view::Sight;
use super::{keys, lost, no_terminal};
use crate::dev::Wishes;
use crate::dev::news::{News, Wish};
use crate::dev::teller::Teller;
use crate::render::{Failure, Style};

/// How often it is drawn, at most.
const DRAW: Duration = Duration::from_millis(80);
/// The keeper is asked for its status at every so many pictures.
const STATUS: u32 = 3;

/// Shows the workshop until it has ended. A wish to quit goes to the workshop, which ends the news.
pub(crate) async fn run(
    mut board: Board,
    news: &mut mpsc::Receiver<News>,
    teller: &Teller,
    wishes: Wishes,
    status: impl Fn() -> Option<ServerStatus>,
    style: Style,
) -> Result<(), Failure> {
    let mut screen = Screen::raise().map_err(|cause| no_terminal(&cause).hint("Use `--plain`"))?;
    let mut keys = keys();
    let mut draw = interval(DRAW);
    draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut dirty, mut pictures) = (true, 0u32);
    loop {
        tokio::select! {
            _ = draw.tick() => {
                let missed = teller.take_missed();
                if missed > 0 {
                    board.missed(missed, Timestamp::now());
                }
                if pictures.is_multiple_of(STATUS) {
                    board.status(status());
                    dirty = true;
                }
                pictures = pictures.wrapping_add(1);
                if !std::mem::take(&mut dirty) {
                    continue;
                }
                let sight = Sight { now: Timestamp::now(), zone: TimeZone::system(), style };
                let seen = screen.draw(|frame| view::draw(frame, &board, &sight)).map_err(lost)?;
                board.seen(seen);
            }
            told = news.recv() => match told {
                Some(told) => {
                    board.learn(told);
                    dirty = true;
                }
                None => return Ok(()),
            },
            event = keys.recv() => {
                match event {
                    Some(Ok(Event::Key(key))) => match board.key(key) {
                        Some(Key::Redraw) => screen.clear().map_err(lost)?,
                        Some(Key::Wish(wish)) => {
                            // One who presses it again and again means it once.
                            let _ = wishes.try_send(wish);
                        }
                        None => {}
                    },
                    // Another size, for one.
                    Some(Ok(_)) => {}
                    Some(Err(cause)) => return Err(lost(cause)),
                    None => {
                        let _ = wishes.try_send(Wish::Quit);
                        return Ok(());
                    }
                }
                dirty = true;
            }
        }
    }
}
