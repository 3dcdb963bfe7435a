//! Times with milliseconds, written without allocation: a run writes hundreds of thousands.

use jiff::Timestamp;

/// Is the length of a time in a log, `2026-04-13T15:23:57.123Z`.
pub(crate) const RFC3339_LENGTH: usize = 24;
/// Is the length of a time in the database, `2026-04-13 15:23:57.123`.
pub(crate) const SQL_LENGTH: usize = 23;

const YEAR_0_MILLISECOND: i64 = -62_167_219_200_000;

/// Returns `2026-04-13T15:23:57.123Z`.
pub(crate) fn rfc3339(time: Timestamp) -> [u8; RFC3339_LENGTH] {
    let millisecond = time.as_millisecond().max(YEAR_0_MILLISECOND);
    let (days, in_day) = (millisecond.div_euclid(86_400_000), millisecond.rem_euclid(86_400_000));
    // days to civil date: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);

    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut digits = |at: usize, width: usize, mut value: i64| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(0, 4, year);
    digits(5, 2, month);
    digits(8, 2, day);
    digits(11, 2, in_day / 3_600_000);
    digits(14, 2, in_day / 60_000 % 60);
    digits(17, 2, in_day / 1000 % 60);
    digits(20, 3, in_day % 1000);
    text
}

/// Returns `2026-04-13 15:23:57.123`.
pub(crate) fn sql(time: Timestamp) -> [u8; SQL_LENGTH] {
    let text = rfc3339(time);
    let mut column = [0; SQL_LENGTH];
    column.copy_from_slice(&text[..SQL_LENGTH]);
    column[10] = b' ';
    column
}

/// Returns what [`sql`] does, as text.
pub(crate) fn sql_text(time: Timestamp) -> String {
    sql(time).iter().map(|byte| char::from(*byte)).collect()
}

/// Reads a time of a log for the database; nothing when it is none.
pub(crate) fn sql_from_log(text: &str) -> Option<[u8; SQL_LENGTH]> {
    const SHAPE: &[u8; RFC3339_LENGTH] = b"0000-00-00T00:00:00.000Z";
    let bytes = text.as_bytes();
    let shaped = bytes.len() == RFC3339_LENGTH
        && bytes.iter().zip(SHAPE).all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like });
    if shaped {
        let mut column = [0; SQL_LENGTH];
        column.copy_from_slice(&bytes[..SQL_LENGTH]);
        column[10] = b' ';
        return Some(column);
    }
    text.parse().ok().map(sql)
}

/// Reads a time of the database; also other spellings that a person may have put there.
pub(crate) fn from_sql(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let time: jiff::civil::DateTime = text.parse().ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_agree_with_jiff(millisecond in YEAR_0_MILLISECOND..253_402_300_799_999_i64) {
            let time = Timestamp::from_millisecond(millisecond).unwrap();
            let written = rfc3339(time);
            let written = std::str::from_utf8(&written).unwrap();
            prop_assert_eq!(written.parse::<Timestamp>().unwrap(), time);
            prop_assert_eq!(written, format!("{time:.3}"));
            prop_assert_eq!(from_sql(&sql_text(time)), Some(time));
            prop_assert_eq!(sql_from_log(written), Some(sql(time)));
        }
    }

    #[test]
    fn other_spellings_are_read() {
        let time: Timestamp = "2026-04-13T15:23:57Z".parse().unwrap();
        for text in ["2026-04-13 15:23:57", "2026-04-13T15:23:57Z", "2026-04-13T17:23:57+02:00"] {
            assert_eq!(from_sql(text), Some(time), "{text}");
        }
        assert_eq!(sql_from_log("2026-04-13T15:23:57Z").as_ref(), Some(b"2026-04-13 15:23:57.000"));
        assert_eq!(sql_from_log("yesterday"), None);
        assert_eq!(from_sql("yesterday"), None);
    }
}
