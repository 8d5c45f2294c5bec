//! What is known of a workshop, and what a key does. Pure: news and keys come in, `view` draws it.

use std::collections::VecDeque;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use relatch_admin::ServerStatus;

use crate::dev::news::{Event, Line, News, Said, Stage, Wish};
use crate::render::dev::Listening;

/// Lines of the log that are kept.
const LINES: usize = 2_000;
/// Calls that are kept.
const CALLS: usize = 1_000;

/// All that is known.
#[derive(Debug)]
pub(crate) struct Board {
    pub(super) name: String,
    pub(super) listening: Option<Listening>,
    pub(super) stage: Stage,
    pub(super) status: Option<ServerStatus>,
    log: VecDeque<Line>,
    calls: VecDeque<Call>,
    /// Calls that are over, and those among them that failed.
    pub(super) over: (u64, u64),
    /// Lines of the screen that are scrolled back from the end of the log.
    pub(super) scroll: usize,
    seen: Seen,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    number: u64,
    pub(super) at: Timestamp,
    /// The tool, or the method where none is called.
    pub(super) subject: String,
    pub(super) over: Option<Over>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) ms: u64,
    pub(super) outcome: String,
    pub(super) failed: bool,
}

/// What drawing found out: how far the log can be scrolled back, and how many lines are seen at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) most: usize,
    pub(super) page: usize,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Redraw,
    Wish(Wish),
}

impl Board {
    pub(crate) fn new(name: String, listening: Option<Listening>) -> Board {
        Board {
            name,
            listening,
            stage: Stage::default(),
            status: None,
            log: VecDeque::new(),
            calls: VecDeque::new(),
            over: (0, 0),
            scroll: 0,
            seen: Seen::default(),
        }
    }

    /// Takes in what happened.
    pub(super) fn learn(&mut self, news: News) {
        match news {
            News::Line(line) => self.note(line),
            News::Stage(stage) => self.stage = stage,
            News::Asked { at, call, method, tool } => {
                if self.calls.len() == CALLS {
                    self.calls.pop_front();
                }
                let subject = tool.unwrap_or(method);
                self.calls.push_back(Call { number: call, at, subject, over: None });
            }
            News::Ended { call, ms, outcome, failed } => {
                self.over.0 += 1;
                self.over.1 += u64::from(failed);
                if let Some(known) = self.calls.iter_mut().rev().find(|known| known.number == call) {
                    known.over = Some(Over { ms, outcome, failed });
                }
            }
        }
    }

    /// So many lines and calls were not told.
    pub(super) fn missed(&mut self, count: u64, now: Timestamp) {
        self.note(Line { at: now, said: Said::Relatch(Event::Missed(count)) });
    }

    /// What the keeper says of the server.
    pub(super) fn status(&mut self, status: Option<ServerStatus>) {
        self.status = status;
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Key> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let page = self.seen.page.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Char('c') if control => return Some(Key::Wish(Wish::Quit)),
            KeyCode::Char('l') if control => return Some(Key::Redraw),
            KeyCode::Char(_) if control => {}
            KeyCode::Char('q') => return Some(Key::Wish(Wish::Quit)),
            KeyCode::Char('r') => return Some(Key::Wish(Wish::Restart)),
            KeyCode::Up | KeyCode::Char('k') => self.back(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageUp => self.back(page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => self.back(usize::MAX),
            KeyCode::End | KeyCode::Char('G') | KeyCode::Esc => self.scroll = 0,
            _ => {}
        }
        None
    }

    /// What drawing found out.
    pub(super) fn seen(&mut self, seen: Seen) {
        // What is looked at stands still while the log goes on.
        if self.scroll > 0 {
            self.scroll += seen.most.saturating_sub(self.seen.most);
        }
        self.scroll = self.scroll.min(seen.most);
        self.seen = seen;
    }

    /// The log, oldest first.
    pub(super) fn log(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.log.iter()
    }

    /// The calls, oldest first.
    pub(super) fn calls(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.calls.iter()
    }

    fn note(&mut self, line: Line) {
        if self.log.len() == LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    fn back(&mut self, by: usize) {
        self.scroll = self.scroll.saturating_add(by).min(self.seen.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::stage::at;

    fn line(text: &str) -> News {
        News::Line(Line { at: at(0), said: Said::Server(text.to_owned()) })
    }

    fn press(board: &mut Board, key: KeyCode) -> Option<Key> {
        board.key(KeyEvent::from(key))
    }

    #[test]
    fn keys_restart_and_quit_and_scroll_the_log_within_its_ends() {
        let mut board = Board::new("notes".to_owned(), None);
        assert_eq!(press(&mut board, KeyCode::Char('r')), Some(Key::Wish(Wish::Restart)));
        assert_eq!(press(&mut board, KeyCode::Char('q')), Some(Key::Wish(Wish::Quit)));
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!(board.key(control('c')), Some(Key::Wish(Wish::Quit)));
        assert_eq!(board.key(control('l')), Some(Key::Redraw));
        assert_eq!(board.key(control('r')), None);
        board.seen(Seen { most: 20, page: 9 });
        for (key, scroll) in [
            (KeyCode::Down, 0),
            (KeyCode::Up, 1),
            (KeyCode::PageUp, 9),
            (KeyCode::Home, 20),
            (KeyCode::PageDown, 12),
            (KeyCode::End, 0),
        ] {
            assert_eq!(press(&mut board, key), None);
            assert_eq!(board.scroll, scroll, "{key:?}");
        }
        press(&mut board, KeyCode::Up);
        board.seen(Seen { most: 23, page: 9 });
        assert_eq!(board.scroll, 4, "three more lines have come below what is looked at");
        board.seen(Seen { most: 2, page: 9 });
        assert_eq!(board.scroll, 2);
    }

    #[test]
    fn a_call_is_known_from_its_beginning_to_its_end_and_the_past_is_bounded() {
        let mut board = Board::new("notes".to_owned(), None);
        for call in 0..2 * CALLS as u64 {
            board.learn(News::Asked {
                at: at(0),
                call,
                method: "tools/call".into(),
                tool: Some("add".into()),
            });
            board.learn(line(&format!("call {call}")));
        }
        assert_eq!(board.calls().count(), CALLS);
        board.learn(News::Ended { call: 1_999, ms: 12, outcome: "error".into(), failed: true });
        board.learn(News::Ended { call: 3, ms: 12, outcome: "answered".into(), failed: false });
        assert_eq!(board.over, (2, 1), "a call that is not shown any more counts");
        let last = board.calls().next_back().unwrap();
        assert_eq!((last.subject.as_str(), last.over.as_ref().map(|over| over.ms)), ("add", Some(12)));
        for n in 0..LINES {
            board.learn(line(&n.to_string()));
        }
        assert_eq!(board.log().count(), LINES);
    }
}
