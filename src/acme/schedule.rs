//! When a certificate is asked for, and when again after a failure. Pure: the clock and chance are given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// First pause after the authority could not be reached or was busy.
const UNREACHABLE: Duration = Duration::from_secs(2);
/// The longest such pause: an authority that is back is noticed within it.
const UNREACHABLE_MAX: Duration = Duration::from_secs(5 * 60);
/// First pause after the authority has said no. Let's Encrypt allows five failed proofs of a name an hour: with pauses
/// of 2, 4, 8, 16 and 32 minutes, the sixth comes after the hour.
const REFUSED: Duration = Duration::from_secs(2 * 60);
/// The longest such pause.
const REFUSED_MAX: Duration = Duration::from_secs(6 * 3600);
/// The longest pause that an authority can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why there is no certificate, as far as the next attempt is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer, or one that says "later".
    Unreachable,
    /// The authority does not know the account: one is registered, and the order tried again.
    AccountLost,
    /// The authority has said no, above all because it could not see a proof.
    Refused,
}

/// Failed attempts for one set of names. Persisted, so that a restart is no way around the pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempts {
    /// Failures since the last success.
    pub(super) failures: u32,
    /// Not before.
    pub(super) next: Option<SystemTime>,
}

impl Attempts {
    /// What a failure at `now` leads to. `retry_after` is what the authority asks for; `chance`, from 0 to 1, keeps many
    /// gateways from coming at once.
    pub(super) fn failed(
        self,
        trouble: Trouble,
        retry_after: Option<SystemTime>,
        now: SystemTime,
        chance: f64,
    ) -> Self {
        let (first, longest) = match trouble {
            Trouble::Unreachable | Trouble::AccountLost => (UNREACHABLE, UNREACHABLE_MAX),
            Trouble::Refused => (REFUSED, REFUSED_MAX),
        };
        let doubled = first.saturating_mul(1 << self.failures.min(20)).min(longest);
        let pause = doubled.mul_f64(0.1f64.mul_add(chance.clamp(0.0, 1.0), 1.0));
        let asked = retry_after.map(|at| at.min(now + RETRY_AFTER_MAX));
        Self {
            failures: self.failures.saturating_add(1),
            next: Some(asked.map_or(now + pause, |asked| asked.max(now + pause))),
        }
    }

    /// What a success at `now` leads to, with a certificate that ends at `until` and is to be renewed at `renewal`. By a
    /// clock that is ahead, or with an authority that hands out old certificates, that may be at once: each would be
    /// followed by the next without a pause.
    pub(super) fn succeeded(now: SystemTime, renewal: SystemTime, until: SystemTime) -> Self {
        let left = until.duration_since(now).unwrap_or_default();
        let pause = (left / 3).clamp(REFUSED, RETRY_AFTER_MAX);
        Self {
            failures: 0,
            next: (renewal <= now).then(|| now + pause),
        }
    }

    /// When to ask for a certificate: `renewal` is when the one that is held is to be renewed, if there is one. A pause
    /// that is longer than any can be was noted by a clock that was ahead, and does not hold.
    pub(super) fn due(self, renewal: Option<SystemTime>, now: SystemTime) -> SystemTime {
        let wanted = renewal.unwrap_or(UNIX_EPOCH);
        let next = self.next.filter(|next| *next <= now + RETRY_AFTER_MAX);
        next.map_or(wanted, |next| next.max(wanted))
    }
}

/// When a certificate is renewed. With `certificatesDuration`, Traefik's rule holds for that duration; without, a third
/// of the lifetime is left. Never in the first half of the lifetime: a duration that does not fit the certificates
/// must not make each of them be renewed at once.
pub(super) fn renewal(not_before: SystemTime, not_after: SystemTime, duration: Option<Duration>) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    let left = match duration {
        None => lifetime / 3,
        Some(given) if given >= 365 * DAY => 120 * DAY,
        Some(given) if given >= 90 * DAY => 30 * DAY,
        Some(given) if given >= 30 * DAY => 10 * DAY,
        Some(given) if given >= 6 * DAY => 2 * DAY,
        Some(given) if given >= DAY => 6 * HOUR,
        Some(_) => HOUR / 3,
    };
    let at = not_after.checked_sub(left).unwrap_or(not_before);
    at.max(not_before + lifetime / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn pauses(trouble: Trouble, chance: f64, count: usize) -> Vec<u64> {
        let mut attempts = Attempts::default();
        let now = at(1_000_000);
        let mut pauses = Vec::new();
        for _ in 0..count {
            attempts = attempts.failed(trouble, None, now, chance);
            pauses.push(attempts.next.unwrap().duration_since(now).unwrap().as_secs());
        }
        pauses
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        assert_eq!(
            pauses(Trouble::Unreachable, 0.0, 10),
            [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        );
        assert_eq!(pauses(Trouble::Refused, 0.0, 9)[..5], [120, 240, 480, 960, 1920]);
        assert_eq!(*pauses(Trouble::Refused, 0.0, 40).last().unwrap(), 6 * 3600);
        assert_eq!(pauses(Trouble::Refused, 1.0, 1), [132]);
    }

    #[test]
    fn the_authority_may_ask_for_longer_but_not_for_ever() {
        let now = at(1000);
        let failed = |asked| Attempts::default().failed(Trouble::Unreachable, asked, now, 0.0);
        assert_eq!(failed(Some(at(1600))).next, Some(at(1600)));
        assert_eq!(failed(Some(at(500))).next, Some(at(1002)));
        assert_eq!(failed(Some(at(u64::from(u32::MAX)))).next, Some(now + RETRY_AFTER_MAX));
    }

    #[test]
    fn what_is_not_there_is_due_at_once_and_what_failed_later() {
        let now = at(40);
        assert!(Attempts::default().due(None, now) < at(1));
        let failed = Attempts {
            failures: 1,
            next: Some(at(50)),
        };
        assert_eq!(failed.due(None, now), at(50));
        assert_eq!(failed.due(Some(at(70)), now), at(70));
        assert_eq!(Attempts::default().due(Some(at(70)), now), at(70));
    }

    #[test]
    fn a_clock_that_was_ahead_stops_nothing() {
        let year = Duration::from_secs(365 * 86400);
        let now = at(1_000_000);
        let failed = Attempts::default().failed(Trouble::Refused, None, now + year, 0.0);
        assert_eq!(failed.due(None, now), UNIX_EPOCH);
        let asked = Some(now + year);
        let longest = Attempts::default().failed(Trouble::Refused, asked, now, 1.0);
        assert_eq!(longest.due(None, now), now + RETRY_AFTER_MAX);
    }

    #[test]
    fn a_certificate_that_comes_old_is_not_followed_at_once() {
        let now = at(1_000_000);
        let next = |renewal, until| Attempts::succeeded(now, at(renewal), at(until)).next;
        assert_eq!(next(1_000_001, 1_000_005), None);
        assert_eq!(next(900_000, 1_009_000), Some(at(1_003_000)));
        assert_eq!(next(900_000, 1_000_010), Some(now + REFUSED));
        assert_eq!(next(900_000, 9_000_000), Some(now + RETRY_AFTER_MAX));
    }

    #[test]
    fn certificates_are_renewed_in_time() {
        let days = |days: u64| at(days * 86400);
        let duration = |days: u64| Some(Duration::from_secs(days * 86400));
        assert_eq!(renewal(days(0), days(90), None), days(60));
        assert_eq!(renewal(days(0), days(6), None), days(4));
        assert_eq!(renewal(days(0), days(90), duration(90)), days(60));
        assert_eq!(renewal(days(0), days(400), duration(365)), days(280));
        assert_eq!(renewal(days(0), days(7), duration(7)), days(5));
        assert_eq!(
            renewal(days(0), days(1), Some(Duration::from_secs(3600))),
            at(86400 - 1200)
        );
        assert_eq!(
            renewal(days(0), days(6), duration(90)),
            days(3),
            "a rule that does not fit"
        );
        assert_eq!(renewal(days(9), days(3), None), days(9), "dates that cannot be");
    }
}
