//! The two date formats that matter here, without a calendar library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses the preferred HTTP date, for example `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
pub(super) fn parse_http_date(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day = words.next()?.parse().ok()?;
    let month = words.next()?;
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)?;
    let year = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let time = (time.next()??, time.next()??, time.next()??);
    if words.next()? != "GMT" || words.next().is_some() {
        return None;
    }
    timestamp((year, u64::try_from(month).ok()? + 1, day), time)
}

/// Parses the date of S3 signatures, for example `20130524T000000Z`, and of Azure signatures,
/// for example `2013-05-24T00:00:00Z`.
pub(super) fn parse_basic_date(text: &str) -> Option<SystemTime> {
    let digits: String = text.chars().filter(|character| !matches!(character, '-' | ':')).collect();
    let digits = digits.strip_suffix('Z')?;
    let (date, time) = digits.split_once('T')?;
    if date.len() != 8 || time.len() != 6 {
        return None;
    }
    let number = |text: &str, from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let date = (number(date, 0, 4)?, number(date, 4, 6)?, number(date, 6, 8)?);
    timestamp(date, (number(time, 0, 2)?, number(time, 2, 4)?, number(time, 4, 6)?))
}

fn timestamp(date: (u64, u64, u64), time: (u64, u64, u64)) -> Option<SystemTime> {
    let ((year, month, day), (hour, minute, second)) = (date, time);
    let is_valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_valid {
        return None;
    }
    // Days from civil, by Howard Hinnant: years begin in March, so the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_count = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    let days = day_count.checked_sub(719_468)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(time: Option<SystemTime>) -> Option<u64> {
        Some(time?.duration_since(UNIX_EPOCH).ok()?.as_secs())
    }

    #[test]
    fn dates_are_parsed() {
        let http = |text| seconds(parse_http_date(text));
        assert_eq!(http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        let basic = |text| seconds(parse_basic_date(text));
        assert_eq!(basic("20130524T000000Z"), Some(1_369_353_600));
        assert_eq!(basic("2013-05-24T00:00:00Z"), Some(1_369_353_600));
    }

    #[test]
    fn other_texts_are_not_dates() {
        for text in [
            "",
            "1",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        for text in ["", "Z", "20130524", "20131324T000000Z", "201305240T00000Z", "\u{e9}T0Z"] {
            assert_eq!(parse_basic_date(text), None, "{text}");
        }
    }
}
