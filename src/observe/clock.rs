//! Time as text, written by hand: a general formatter costs more than the rest of a log line.
//!
//! All times are UTC. Go's programs write local time in some places; Gantry does not, so that lines of several
//! machines sort, and because reading the time zone safely has no place on a hot path.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// A moment in UTC, as civil date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year, from 1970 on.
    pub year: u32,
    /// The month, from 1.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The second of the day.
    pub second: u32,
}

impl Civil {
    /// From seconds since 1970, by Howard Hinnant's `civil_from_days`.
    pub fn from_unix(seconds: u64) -> Self {
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months counted from March: the leap day is the last of the year.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year: year as u32,
            month: month as u32,
            day: day as u32,
            second: (seconds % 86_400) as u32,
        }
    }
}

/// A clock face: times as text, the last second remembered.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    second: Option<u64>,
    rfc3339: Vec<u8>,
    common: Vec<u8>,
}

impl Clock {
    /// Appends `2006-01-02T15:04:05Z`.
    pub fn rfc3339(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        self.set(time);
        out.extend_from_slice(&self.rfc3339);
        out.push(b'Z');
    }

    /// Appends `2006-01-02T15:04:05.999999999Z`; as in Go, without zeros at the end.
    pub fn rfc3339_nanos(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let nanos = self.set(time);
        out.extend_from_slice(&self.rfc3339);
        if nanos > 0 {
            out.push(b'.');
            let mut digits = [b'0'; 9];
            decimal(&mut digits, nanos);
            let end = digits
                .iter()
                .rposition(|digit| *digit != b'0')
                .map_or(0, |last| last + 1);
            out.extend_from_slice(&digits[..end]);
        }
        out.push(b'Z');
    }

    /// Appends `02/Jan/2006:15:04:05 +0000`.
    pub fn common(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        self.set(time);
        out.extend_from_slice(&self.common);
    }

    /// Brings the texts up to the second of `time`; returns the nanoseconds beyond it.
    fn set(&mut self, time: SystemTime) -> u32 {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.write(Civil::from_unix(since.as_secs()));
        }
        since.subsec_nanos()
    }

    fn write(&mut self, civil: Civil) {
        let Civil {
            year,
            month,
            day,
            second,
        } = civil;
        let mut clock = *b"00:00:00";
        decimal(&mut clock[0..2], second / 3600);
        decimal(&mut clock[3..5], second / 60 % 60);
        decimal(&mut clock[6..8], second % 60);
        let mut date = *b"0000-00-00T";
        decimal(&mut date[0..4], year);
        decimal(&mut date[5..7], month);
        decimal(&mut date[8..10], day);
        self.rfc3339.clear();
        self.rfc3339.extend_from_slice(&date);
        self.rfc3339.extend_from_slice(&clock);
        self.common.clear();
        self.common.extend_from_slice(&date[8..10]);
        self.common.push(b'/');
        self.common.extend_from_slice(MONTHS[month as usize - 1]);
        self.common.push(b'/');
        self.common.extend_from_slice(&date[0..4]);
        self.common.push(b':');
        self.common.extend_from_slice(&clock);
        self.common.extend_from_slice(b" +0000");
    }
}

/// Fills `out` with the last digits of `value`.
fn decimal(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let date = |seconds| {
            let civil = Civil::from_unix(seconds);
            (civil.year, civil.month, civil.day, civil.second)
        };
        assert_eq!(date(0), (1970, 1, 1, 0));
        assert_eq!(date(951_782_399), (2000, 2, 28, 86_399));
        assert_eq!(date(951_782_400), (2000, 2, 29, 0));
        assert_eq!(date(1_709_251_199), (2024, 2, 29, 86_399));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 0));
    }

    #[test]
    fn texts_agree_with_httpdate_over_a_century() {
        let mut clock = Clock::default();
        for step in 0..4000_u64 {
            let time = UNIX_EPOCH + Duration::from_secs(step * 789_013);
            let mut out = Vec::new();
            clock.common(&mut out, time);
            let text = String::from_utf8(out).unwrap();
            let expected = httpdate::fmt_http_date(time);
            let parts: Vec<_> = expected.split([' ', ',']).collect();
            assert_eq!(
                text,
                format!("{}/{}/{}:{} +0000", parts[2], parts[3], parts[4], parts[5])
            );
        }
    }

    #[test]
    fn fractions_end_without_zeros() {
        let mut clock = Clock::default();
        let mut text = |nanos| {
            let mut out = Vec::new();
            clock.rfc3339_nanos(&mut out, UNIX_EPOCH + Duration::new(1_136_214_245, nanos));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0), "2006-01-02T15:04:05Z");
        assert_eq!(text(120_000_000), "2006-01-02T15:04:05.12Z");
        assert_eq!(text(1), "2006-01-02T15:04:05.000000001Z");
    }
}
