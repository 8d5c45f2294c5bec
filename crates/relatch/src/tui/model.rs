//! What is known of all keepers, what is being looked at, and what a key does. Pure: news and keys come in, the time with
//! them; `view` draws it. Computes no health.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use relatch_admin::history::ServerHistory;
use relatch_admin::{Dated, KeeperStatus, ReconnectOutcome, ServerStatus};
use relatch_core::health::State;

use super::watch::News;
use crate::render::status;

/// Journal entries that are kept, of all keepers together; one keeper has 2,000 at most.
const ENTRIES: usize = 4_000;
/// Turns of one upstream that are kept, as in its keeper.
const TURNS: usize = 1_000;
/// The past that is kept, as in the keepers.
const DAY: SignedDuration = SignedDuration::from_hours(25);
/// How long an outcome stands in the last line.
const SAID: SignedDuration = SignedDuration::from_secs(10);

/// The spans of time that can be looked at, in minutes.
const ZOOMS: [i64; 5] = [10, 30, 60, 360, 1_440];
const FIRST_ZOOM: usize = 1;

/// All that is known and looked at.
#[derive(Debug, Default)]
pub(super) struct Model {
    keepers: BTreeMap<u32, Keeper>,
    journal: VecDeque<Dated>,
    had: BTreeSet<(u32, u64)>,
    unreadable: Option<String>,
    /// Whether keepers have been looked for.
    looked: bool,
    pub(super) page: Page,
    pub(super) help: bool,
    /// None is the first row.
    selected: Option<Id>,
    /// Lines that are scrolled past; of the journal, from its end.
    pub(super) scroll: usize,
    seen: Seen,
    zoom: Option<usize>,
    said: Option<(Timestamp, String)>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    /// All upstreams.
    #[default]
    List,
    /// The story of the selected one.
    Story,
    /// The journal of the selected one.
    Journal,
}

/// Which row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    Upstream(u32, String),
    Keeper(u32),
}

/// One row of the list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    Upstream {
        keeper: &'a KeeperStatus,
        server: &'a ServerStatus,
        past: Past<'a>,
    },
    /// A keeper that runs and tells nothing; `names` are the upstreams that it told of before.
    Silent {
        pid: u32,
        cause: &'a str,
        last: Option<&'a KeeperStatus>,
    },
}

/// The history of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Past<'a> {
    Told(&'a ServerHistory),
    /// Not yet.
    Coming,
    /// The keeper is of a version that tells none.
    Untold,
}

/// What drawing found out: how far down the list is, and how much there is to scroll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The first row of the list that is drawn.
    pub(super) top: usize,
    /// How far `scroll` can go.
    pub(super) most: usize,
    /// Lines, or rows of the list, that are seen at once.
    pub(super) page: usize,
}

/// What a key asks of the world outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Everything is written anew.
    Redraw,
    Reconnect {
        pid: u32,
        name: String,
    },
}

/// One keeper.
#[derive(Debug, Default)]
struct Keeper {
    status: Option<KeeperStatus>,
    /// Why there is no answer now.
    trouble: Option<String>,
    histories: BTreeMap<String, ServerHistory>,
    untold: bool,
}

impl Row<'_> {
    pub(super) fn id(&self) -> Id {
        match self {
            Row::Upstream { keeper, server, .. } => Id::Upstream(keeper.pid, server.name.clone()),
            Row::Silent { pid, .. } => Id::Keeper(*pid),
        }
    }

    /// What needs somebody comes first.
    fn rank(&self) -> u8 {
        match self {
            Row::Silent { .. } => 0,
            Row::Upstream { server, .. } => match server.health {
                State::Down | State::Degraded | State::Recovering => 0,
                State::Unknown => 1,
                State::Healthy => 2,
            },
        }
    }
}

impl Id {
    /// Whether a journal entry is about it.
    fn wants(&self, entry: &Dated) -> bool {
        match self {
            Id::Upstream(pid, name) => entry.pid == *pid && entry.upstream == *name,
            Id::Keeper(pid) => entry.pid == *pid,
        }
    }
}

impl Model {
    /// Keepers were looked for; why that can't be done.
    pub(super) fn readable(&mut self, trouble: Option<String>) {
        self.unreadable = trouble;
        self.looked = true;
    }

    /// Takes in what a keeper told.
    pub(super) fn learn(&mut self, news: News, now: Timestamp) {
        match news {
            News::Status(told) => {
                let keeper = self.keepers.entry(told.pid).or_default();
                keeper.trouble = None;
                keeper.histories.retain(|name, _| told.servers.iter().any(|server| server.name == *name));
                keeper.status = Some(told);
            }
            News::History { pid, since, servers } => {
                if let Some(keeper) = self.keepers.get_mut(&pid) {
                    keeper.remember(since, servers, now);
                }
            }
            News::NoHistory { pid } => self.keepers.entry(pid).or_default().untold = true,
            News::Trouble { pid, cause } => self.keepers.entry(pid).or_default().trouble = Some(cause),
            News::Gone { pid } => {
                self.keepers.remove(&pid);
            }
            News::Entry(entry) => self.note(entry),
            News::Reconnected { name, outcome } => self.say(now, told(&name, outcome)),
        }
    }

    fn note(&mut self, entry: Dated) {
        // A journal is told from its beginning again when its keeper is asked anew.
        if !self.had.insert((entry.pid, entry.seq)) {
            return;
        }
        let key = |entry: &Dated| (entry.at, entry.pid, entry.seq);
        let place = self.journal.partition_point(|had| key(had) <= key(&entry));
        self.journal.insert(place, entry);
        if self.journal.len() > ENTRIES {
            self.journal.pop_front();
        }
        if self.had.len() > 4 * ENTRIES {
            let journal = &self.journal;
            self.had = journal.iter().map(|entry| (entry.pid, entry.seq)).collect();
        }
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent, now: Timestamp) -> Option<Wish> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Some(Wish::Quit),
            KeyCode::Char('l') if control => return Some(Wish::Redraw),
            KeyCode::Char(_) if control => {}
            KeyCode::Char('q') => return Some(Wish::Quit),
            _ if self.help => {
                self.help = false;
            }
            KeyCode::Char('?') => self.help = true,
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-self.a_page()),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(self.a_page()),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::Enter => self.turn(Page::Story),
            KeyCode::Char('l') => self.turn(Page::Journal),
            KeyCode::Esc | KeyCode::Backspace => self.turn(Page::List),
            KeyCode::Tab | KeyCode::Right => self.other(1),
            KeyCode::BackTab | KeyCode::Left => self.other(-1),
            KeyCode::Char('+' | '=') => self.zoom = Some(self.zoom_index().saturating_sub(1)),
            KeyCode::Char('-') => self.zoom = Some((self.zoom_index() + 1).min(ZOOMS.len() - 1)),
            KeyCode::Char('r') => return self.reconnect(now),
            _ => {}
        }
        None
    }

    /// What drawing found out.
    pub(super) fn seen(&mut self, seen: Seen) {
        self.scroll = self.scroll.min(seen.most);
        self.seen = seen;
    }

    pub(super) fn top(&self) -> usize {
        self.seen.top
    }

    /// Every row, what is not healthy first; otherwise they keep their places.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut keepers: Vec<(&u32, &Keeper)> = self.keepers.iter().collect();
        keepers.sort_by_key(|(pid, keeper)| {
            (keeper.status.as_ref().map_or(Timestamp::MAX, |status| status.since), **pid)
        });
        let mut rows: Vec<Row<'_>> =
            keepers.into_iter().flat_map(|(pid, keeper)| keeper.rows(*pid)).collect();
        rows.sort_by_key(Row::rank);
        rows
    }

    /// The number of the selected row.
    pub(super) fn selected(&self, rows: &[Row<'_>]) -> usize {
        let place = |id: &Id| rows.iter().position(|row| row.id() == *id);
        self.selected.as_ref().and_then(place).unwrap_or(0)
    }

    /// How many upstreams are in each health, and how many keepers tell nothing.
    pub(super) fn counts(&self) -> (BTreeMap<State, usize>, usize) {
        let (mut counts, mut silent) = (BTreeMap::new(), 0);
        for row in self.rows() {
            match row {
                Row::Upstream { server, .. } => *counts.entry(server.health).or_default() += 1,
                Row::Silent { .. } => silent += 1,
            }
        }
        (counts, silent)
    }

    /// Why keepers can't be looked for, if so.
    pub(super) fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// Whether it is known that there is nobody.
    pub(super) fn nobody(&self) -> bool {
        self.looked && self.keepers.is_empty()
    }

    /// The journal, of all or of one, oldest first.
    pub(super) fn journal(&self, of: Option<&Id>) -> impl DoubleEndedIterator<Item = &Dated> {
        let of = of.cloned();
        self.journal.iter().filter(move |entry| of.as_ref().is_none_or(|id| id.wants(entry)))
    }

    /// The span of time that is looked at, in minutes.
    pub(super) fn minutes(&self) -> i64 {
        ZOOMS[self.zoom_index()]
    }

    /// The outcome to show, for a while.
    pub(super) fn said(&self, now: Timestamp) -> Option<&str> {
        let (at, said) = self.said.as_ref()?;
        (now.duration_since(*at) < SAID).then_some(said)
    }

    fn say(&mut self, now: Timestamp, words: String) {
        self.said = Some((now, words));
    }

    fn zoom_index(&self) -> usize {
        self.zoom.unwrap_or(FIRST_ZOOM)
    }

    fn a_page(&self) -> isize {
        isize::try_from(self.seen.page.saturating_sub(1)).unwrap_or(isize::MAX).max(1)
    }

    /// Down the list or the text, or up it.
    fn go(&mut self, by: isize) {
        match self.page {
            Page::List => self.select(by),
            Page::Story => self.scroll = self.scroll.saturating_add_signed(by).min(self.seen.most),
            Page::Journal => {
                self.scroll = self.scroll.saturating_add_signed(by.saturating_neg()).min(self.seen.most)
            }
        }
    }

    fn select(&mut self, by: isize) {
        let rows = self.rows();
        let to = self.selected(&rows).saturating_add_signed(by).min(rows.len().saturating_sub(1));
        self.selected = rows.get(to).map(Row::id);
    }

    /// Another upstream on the same page.
    fn other(&mut self, by: isize) {
        if self.page != Page::List {
            self.select(by);
            self.scroll = 0;
        }
    }

    fn turn(&mut self, page: Page) {
        // What is looked at stays selected, wherever its row goes.
        self.select(0);
        if self.selected.is_some() || page == Page::List {
            self.page = page;
            self.scroll = 0;
        }
    }

    fn reconnect(&mut self, now: Timestamp) -> Option<Wish> {
        self.select(0);
        match self.selected.clone()? {
            Id::Upstream(pid, name) => {
                self.say(now, format!("`{name}`: asking for a new session"));
                Some(Wish::Reconnect { pid, name })
            }
            Id::Keeper(pid) => {
                self.say(now, format!("Keeper {pid} answers nothing"));
                None
            }
        }
    }
}

impl Keeper {
    fn rows(&self, pid: u32) -> Vec<Row<'_>> {
        if let Some(cause) = &self.trouble {
            return vec![Row::Silent { pid, cause, last: self.status.as_ref() }];
        }
        let Some(keeper) = &self.status else { return Vec::new() };
        let row = |server| Row::Upstream { keeper, server, past: self.past(server) };
        keeper.servers.iter().map(row).collect()
    }

    fn past(&self, server: &ServerStatus) -> Past<'_> {
        match self.histories.get(&server.name) {
            Some(history) => Past::Told(history),
            None if self.untold => Past::Untold,
            None => Past::Coming,
        }
    }

    fn remember(&mut self, since: Option<Timestamp>, servers: Vec<ServerHistory>, now: Timestamp) {
        for new in servers {
            let Some(since) = since else {
                self.histories.insert(new.name.clone(), new);
                continue;
            };
            // What is new continues what is known; without it, it says nothing of the time before.
            let Some(known) = self.histories.get_mut(&new.name) else { continue };
            known.turns.retain(|turn| turn.at < since);
            known.turns.extend(new.turns);
            let old = known.turns.len().saturating_sub(TURNS);
            known.turns.drain(..old);
            let horizon = now.checked_sub(DAY).unwrap_or(Timestamp::MIN);
            known.minutes.retain(|minute| minute.at < since && minute.at >= horizon);
            known.minutes.extend(new.minutes);
        }
    }
}

/// What came of a wish for a new session.
fn told(name: &str, outcome: Result<Option<ReconnectOutcome>, String>) -> String {
    match outcome {
        Ok(Some(outcome)) => format!("`{name}`: {}", status::asked(outcome.latches)),
        Ok(None) => format!("`{name}`: its keeper has no server of this name any more"),
        Err(cause) => format!("`{name}`: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::stage::{all_healths, at, entry, history, keeper, server, told};
    use relatch_core::journal::What;

    fn press(model: &mut Model, key: KeyCode) -> Option<Wish> {
        model.key(KeyEvent::from(key), at(0))
    }

    fn names(model: &Model) -> Vec<String> {
        model
            .rows()
            .iter()
            .map(|row| match row.id() {
                Id::Upstream(_, name) => name,
                Id::Keeper(pid) => format!("keeper {pid}"),
            })
            .collect()
    }

    fn selected(model: &Model) -> String {
        names(model)[model.selected(&model.rows())].clone()
    }

    #[test]
    fn what_is_not_healthy_comes_first_and_the_rest_keeps_its_place() {
        let mut model = all_healths();
        assert_eq!(names(&model), ["linear", "github", "files", "docs", "gmail"]);
        model.learn(
            News::Status(keeper(1, vec![server("a", State::Healthy), server("b", State::Down)])),
            at(0),
        );
        assert_eq!(names(&model), ["b", "linear", "github", "files", "docs", "a", "gmail"]);
        model.learn(News::Trouble { pid: 1, cause: "hangs".into() }, at(0));
        assert_eq!(names(&model), ["keeper 1", "linear", "github", "files", "docs", "gmail"]);
        model.learn(News::Gone { pid: 1 }, at(0));
        model.learn(News::Gone { pid: 4711 }, at(0));
        assert!(names(&model).is_empty() && model.nobody());
    }

    #[test]
    fn the_selection_stays_with_its_upstream_wherever_the_row_goes() {
        let mut model = told(vec![keeper(1, vec![server("a", State::Healthy), server("b", State::Healthy)])]);
        assert_eq!(selected(&model), "a");
        press(&mut model, KeyCode::Char('j'));
        assert_eq!(selected(&model), "b");
        model.learn(
            News::Status(keeper(1, vec![server("a", State::Healthy), server("b", State::Down)])),
            at(0),
        );
        assert_eq!((names(&model), selected(&model)), (vec!["b".into(), "a".into()], "b".into()));
        for (key, then) in [
            (KeyCode::Down, "a"),
            (KeyCode::Down, "a"),
            (KeyCode::Up, "b"),
            (KeyCode::End, "a"),
            (KeyCode::Home, "b"),
        ] {
            press(&mut model, key);
            assert_eq!(selected(&model), then, "{key:?}");
        }
        model.learn(News::Status(keeper(1, vec![server("c", State::Healthy)])), at(0));
        assert_eq!(selected(&model), "c", "its upstream is gone");
    }

    #[test]
    fn keys_lead_to_the_pages_and_back() {
        let mut model = all_healths();
        for (key, page) in [
            (KeyCode::Enter, Page::Story),
            (KeyCode::Char('l'), Page::Journal),
            (KeyCode::Enter, Page::Story),
            (KeyCode::Esc, Page::List),
            (KeyCode::Char('l'), Page::Journal),
            (KeyCode::Backspace, Page::List),
        ] {
            assert_eq!(press(&mut model, key), None);
            assert_eq!(model.page, page, "{key:?}");
        }
        press(&mut model, KeyCode::Char('?'));
        assert!(model.help);
        assert_eq!(press(&mut model, KeyCode::Char('r')), None, "the help is only closed");
        assert!(!model.help);
        press(&mut model, KeyCode::Char('?'));
        assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Wish::Quit));
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!(model.key(control('c'), at(0)), Some(Wish::Quit));
        assert_eq!(model.key(control('l'), at(0)), Some(Wish::Redraw));
        assert_eq!(model.key(control('r'), at(0)), None);
        let mut nobody = Model::default();
        press(&mut nobody, KeyCode::Enter);
        assert_eq!(nobody.page, Page::List, "there is no story of nobody");
    }

    #[test]
    fn texts_are_scrolled_within_their_ends() {
        let mut model = all_healths();
        press(&mut model, KeyCode::Enter);
        model.seen(Seen { top: 0, most: 7, page: 5 });
        for (key, scroll) in [
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 5),
            (KeyCode::PageDown, 7),
            (KeyCode::Up, 6),
            (KeyCode::Home, 0),
            (KeyCode::Up, 0),
            (KeyCode::End, 7),
        ] {
            press(&mut model, key);
            assert_eq!(model.scroll, scroll, "{key:?}");
        }
        model.seen(Seen { top: 0, most: 2, page: 9 });
        assert_eq!(model.scroll, 2, "the text has become shorter");
        press(&mut model, KeyCode::Char('l'));
        model.seen(Seen { top: 0, most: 7, page: 5 });
        assert_eq!(model.scroll, 0, "a journal is seen from its end");
        press(&mut model, KeyCode::Up);
        assert_eq!(model.scroll, 1);
        press(&mut model, KeyCode::Home);
        assert_eq!(model.scroll, 7);
    }

    #[test]
    fn the_time_that_is_looked_at_has_five_lengths() {
        let mut model = Model::default();
        let mut seen = vec![model.minutes()];
        for key in ['+', '+', '-', '-', '-', '-', '-'] {
            press(&mut model, KeyCode::Char(key));
            seen.push(model.minutes());
        }
        assert_eq!(seen, [30, 10, 10, 30, 60, 360, 1_440, 1_440]);
    }

    #[test]
    fn a_wish_for_a_new_session_goes_to_the_selected_one_and_its_outcome_is_said_for_a_while() {
        let mut model = all_healths();
        let wish = Wish::Reconnect { pid: 4711, name: "linear".into() };
        assert_eq!(press(&mut model, KeyCode::Char('r')), Some(wish));
        assert_eq!(model.said(at(1)), Some("`linear`: asking for a new session"));
        let outcome = |latches| Ok(Some(ReconnectOutcome { name: "linear".into(), latches }));
        for (outcome, said) in [
            (outcome(2), "`linear`: relatching 2 sessions"),
            (outcome(0), "`linear`: no client is attached, nothing to do"),
            (Ok(None), "`linear`: its keeper has no server of this name any more"),
            (Err("process 4711 has ended".to_owned()), "`linear`: process 4711 has ended"),
        ] {
            model.learn(News::Reconnected { name: "linear".into(), outcome }, at(2));
            assert_eq!(model.said(at(3)), Some(said));
        }
        assert_eq!(model.said(at(12)), None);
        model.learn(News::Trouble { pid: 4711, cause: "hangs".into() }, at(0));
        assert_eq!(press(&mut model, KeyCode::Char('r')), None);
        assert_eq!(model.said(at(0)), Some("Keeper 4711 answers nothing"));
        assert_eq!(press(&mut Model::default(), KeyCode::Char('r')), None);
    }

    #[test]
    fn new_history_goes_on_where_the_known_one_ends_and_begins_nothing() {
        let (mut model, down) = (Model::default(), server("a", State::Down));
        model.learn(News::Status(keeper(1, vec![down.clone()])), at(0));
        let whole = history(&down);
        let since = at(-100);
        let mut new = whole.clone();
        new.turns.retain(|turn| turn.at >= since);
        new.minutes.retain(|minute| minute.at >= since);
        model.learn(News::History { pid: 1, since: Some(since), servers: vec![new.clone()] }, at(0));
        assert!(matches!(model.rows()[0], Row::Upstream { past: Past::Coming, .. }));
        model.learn(News::History { pid: 1, since: None, servers: vec![whole.clone()] }, at(0));
        new.minutes.last_mut().unwrap().calls = 99;
        model.learn(News::History { pid: 1, since: Some(since), servers: vec![new] }, at(0));
        let Row::Upstream { past: Past::Told(known), .. } = model.rows()[0] else { panic!("it was told") };
        assert_eq!(known.turns, whole.turns);
        assert_eq!(known.minutes.len(), whole.minutes.len());
        assert_eq!(known.minutes.last().unwrap().calls, 99);
    }

    #[test]
    fn a_journal_that_is_told_twice_is_had_once_in_the_order_of_time() {
        let mut model = Model::default();
        for (pid, seq, second) in [(1, 0, -9), (1, 1, -7), (2, 0, -8), (1, 0, -9), (1, 1, -7), (2, 0, -8)] {
            model.learn(News::Entry(entry(pid, seq, second, "a", What::Lost, "")), at(0));
        }
        let had: Vec<(u32, u64)> = model.journal(None).map(|entry| (entry.pid, entry.seq)).collect();
        assert_eq!(had, [(1, 0), (2, 0), (1, 1)]);
        assert_eq!(model.journal(Some(&Id::Upstream(1, "a".into()))).count(), 2);
        assert_eq!(model.journal(Some(&Id::Keeper(2))).count(), 1);
        for seq in 0..5 * u64::try_from(ENTRIES).unwrap() {
            model.learn(News::Entry(entry(3, seq, i64::try_from(seq).unwrap(), "a", What::Held, "")), at(0));
        }
        assert_eq!(model.journal(None).count(), ENTRIES);
        assert!(model.had.len() <= 4 * ENTRIES + 1);
    }
}
