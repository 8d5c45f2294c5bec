//! The one door to time: milliseconds since a keeper began, time asleep counted, and the date that goes with them.
//!
//! Decides nothing; deadlines are the core's.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// A wall clock that was set moves dates only when it moved by more than this, so that dates don't flicker.
const SET_MS: i64 = 1_000;

/// A keeper's clock. It starts at 0 and goes on while the machine sleeps.
#[derive(Debug)]
pub struct Clock {
    ticks: Ticks,
    /// Unix time in ms at tick 0.
    origin: AtomicI64,
}

impl Clock {
    /// Starts a clock at 0.
    #[must_use]
    pub fn start() -> Self {
        Self { ticks: Ticks::start(), origin: AtomicI64::new(Timestamp::now().as_millisecond()) }
    }

    /// Milliseconds since the start. Never goes back.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.ticks.elapsed_ms()
    }

    /// How long of that the machine was asleep.
    #[must_use]
    pub fn asleep_ms(&self) -> u64 {
        self.ticks.asleep_ms()
    }

    /// The date of an instant of this clock. When the wall clock was set since, by what it says now.
    #[must_use]
    pub fn wall(&self, at_ms: u64) -> Timestamp {
        let origin = Timestamp::now().as_millisecond().saturating_sub_unsigned(self.now_ms());
        let mut known = self.origin.load(Ordering::Relaxed);
        if origin.abs_diff(known) > SET_MS.unsigned_abs() {
            self.origin.store(origin, Ordering::Relaxed);
            known = origin;
        }
        Timestamp::from_millisecond(known.saturating_add_unsigned(at_ms)).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug)]
struct Ticks {
    start: u64,
    /// How far the clock that counts sleep was ahead of the one that doesn't.
    ahead: u64,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Ticks {
    fn start() -> Self {
        Self { start: boot_ms(), ahead: ahead_ms() }
    }

    fn elapsed_ms(&self) -> u64 {
        boot_ms().saturating_sub(self.start)
    }

    fn asleep_ms(&self) -> u64 {
        ahead_ms().saturating_sub(self.ahead)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_ms() -> u64 {
    clock_ms(rustix::time::ClockId::Boottime)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn ahead_ms() -> u64 {
    boot_ms().saturating_sub(clock_ms(rustix::time::ClockId::Monotonic))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn clock_ms(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000 + nanos / 1_000_000
}

/// Where no clock counts time asleep: a monotonic one, put forward by what the wall clock ran ahead of it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
struct Ticks {
    last: std::sync::Mutex<Last>,
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
struct Last {
    steady: std::time::Instant,
    wall: std::time::SystemTime,
    total: std::time::Duration,
    asleep: std::time::Duration,
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Ticks {
    fn start() -> Self {
        Self {
            last: std::sync::Mutex::new(Last {
                steady: std::time::Instant::now(),
                wall: std::time::SystemTime::now(),
                total: std::time::Duration::ZERO,
                asleep: std::time::Duration::ZERO,
            }),
        }
    }

    fn look(&self) -> (std::time::Duration, std::time::Duration) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (steady, wall) = (std::time::Instant::now(), std::time::SystemTime::now());
        let ran = steady - last.steady;
        let passed = advance(ran, wall.duration_since(last.wall).unwrap_or_default());
        *last = Last {
            steady,
            wall,
            total: last.total + passed,
            asleep: last.asleep + passed.saturating_sub(ran),
        };
        (last.total, last.asleep)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.look().0.as_millis()).unwrap_or(u64::MAX)
    }

    fn asleep_ms(&self) -> u64 {
        u64::try_from(self.look().1.as_millis()).unwrap_or(u64::MAX)
    }
}

/// How much time has passed when a steady clock and the wall clock say so: the wall clock is believed only when it
/// ran ahead by more than the usual corrections, as it does over a sleep.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
fn advance(steady: std::time::Duration, wall: std::time::Duration) -> std::time::Duration {
    if wall > steady + std::time::Duration::from_secs(1) { wall } else { steady }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_starts_at_zero_and_never_goes_back() {
        let clock = Clock::start();
        let mut last = clock.now_ms();
        assert!(last < 1_000);
        for _ in 0..10_000 {
            let now = clock.now_ms();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_date_of_now_is_now_and_dates_keep_their_distance() {
        let clock = Clock::start();
        let off = clock.wall(clock.now_ms()).as_millisecond() - Timestamp::now().as_millisecond();
        assert!(off.abs() < 1_000, "{off}");
        let apart = clock.wall(5_000).as_millisecond() - clock.wall(2_000).as_millisecond();
        assert_eq!(apart, 3_000);
        assert_eq!(clock.wall(u64::MAX), Timestamp::MAX);
        assert!(clock.asleep_ms() <= 1, "nobody sleeps while this test runs");
    }

    #[test]
    fn a_wall_clock_that_was_set_moves_the_dates() {
        let clock = Clock::start();
        clock.origin.fetch_add(3_600_000, Ordering::Relaxed);
        let off = clock.wall(clock.now_ms()).as_millisecond() - Timestamp::now().as_millisecond();
        assert!(off.abs() < 1_000, "{off}");
    }

    #[test]
    fn a_sleep_counts_and_a_correction_does_not() {
        let second = Duration::from_secs(1);
        assert_eq!(advance(second, 3_600 * second), 3_600 * second);
        assert_eq!(advance(second, second + Duration::from_millis(300)), second);
        assert_eq!(advance(second, Duration::ZERO), second);
    }
}
