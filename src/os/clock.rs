//! Formats times: for log lines and the HTTP `Date` header.

use std::time::SystemTime;

const SECONDS_PER_DAY: u64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Formats a time as `2026-11-22T16:20:01.123Z`: RFC 3339 in UTC, with milliseconds.
///
/// A time before 1970 is shown as the start of 1970.
pub fn rfc3339_utc(at: SystemTime) -> String {
    let Utc { year, month, day, hour, minute, second, millisecond, .. } = Utc::from(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// Formats a time as `Sun, 22 Nov 2026 16:20:01 GMT`: the IMF-fixdate of RFC 9110, section 5.6.7.
///
/// A time before 1970 is shown as the start of 1970.
pub fn http_date(at: SystemTime) -> String {
    let Utc { year, month, day, weekday, hour, minute, second, .. } = Utc::from(at);
    let weekday = name(&WEEKDAYS, weekday);
    let month = name(&MONTHS, month - 1);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A time in the Gregorian calendar and in UTC.
struct Utc {
    year: u64,
    /// 1 to 12.
    month: u64,
    day: u64,
    /// Days since Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl From<SystemTime> for Utc {
    fn from(at: SystemTime) -> Self {
        let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let days = since_1970.as_secs() / SECONDS_PER_DAY;
        let seconds = since_1970.as_secs() % SECONDS_PER_DAY;
        let (year, month, day) = civil_from_days(days);
        Self {
            year,
            month,
            day,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4) % 7,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            millisecond: since_1970.subsec_millis(),
        }
    }
}

/// Returns year, month (1 to 12) and day (1 to 31) for a number of days since 1 January 1970.
///
/// The calendar repeats every 400 years. Counting years from March puts the leap day last, so
/// that the months before it have the same lengths in every year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970_FROM_MARCH_0: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_1970_FROM_MARCH_0;
    let day_of_era = days % DAYS_PER_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = (months_since_march + 2) % 12 + 1;
    let year = days / DAYS_PER_400_YEARS * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

fn name(names: &[&'static str], index: u64) -> &'static str {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(milliseconds)
    }

    // The seconds are from `date -u -d '<text>' +%s`.
    #[test]
    fn known_moments_have_their_known_texts() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "1994-11-06T08:49:37.000Z", "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "2000-02-29T00:00:00.000Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "2000-02-29T23:59:59.000Z", "Tue, 29 Feb 2000 23:59:59 GMT"),
            (951_868_800, "2000-03-01T00:00:00.000Z", "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z", "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_795_364_401, "2026-11-22T16:20:01.000Z", "Sun, 22 Nov 2026 16:20:01 GMT"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z", "Mon, 01 Mar 2100 00:00:00 GMT"),
        ];
        for (seconds, rfc3339, imf) in cases {
            assert_eq!(rfc3339_utc(at(seconds, 0)), rfc3339);
            assert_eq!(http_date(at(seconds, 0)), imf);
        }
    }

    #[test]
    fn milliseconds_are_cut_not_rounded() {
        let late = at(1, 0) + Duration::from_nanos(999_999_999);
        assert_eq!(rfc3339_utc(late), "1970-01-01T00:00:01.999Z");
        assert_eq!(rfc3339_utc(at(1, 7)), "1970-01-01T00:00:01.007Z");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..400 * 366 {
            assert_eq!(civil_from_days(days), (year, month, day), "day {days}");
            let length = match month {
                2 if leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn a_time_before_1970_is_the_start_of_1970() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339_utc(before), "1970-01-01T00:00:00.000Z");
    }
}
