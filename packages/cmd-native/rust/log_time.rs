//! Times as text.

use std::io::Write;

/// The last second that was written: records lie close together.
pub struct Second {
    at: i128,
    text: [u8; 40],
    size: usize,
}

impl Default for Second {
    fn default() -> Second {
        Second { at: i128::MIN, text: [0; 40], size: 0 }
    }
}

impl Second {
    /// Appends nanoseconds since 1970 as a time of ISO 8601 with nine digits.
    pub fn iso(&mut self, out: &mut Vec<u8>, ns: i128) {
        let (second, rest) = match i64::try_from(ns) {
            Ok(ns) => (i128::from(ns.div_euclid(1_000_000_000)), ns.rem_euclid(1_000_000_000) as u32),
            Err(_) => (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) as u32),
        };
        if second != self.at {
            self.at = second;
            let mut room = &mut self.text[..];
            let (year, month, day) = civil(second.div_euclid(86_400) as i64);
            let of_day = second.rem_euclid(86_400) as u32;
            let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
            let fits = write!(room, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.", of_day % 60).is_ok();
            debug_assert!(fits);
            self.size = 40 - room.len();
        }
        out.extend_from_slice(&self.text[..self.size]);
        let mut digits = [b'0'; 10];
        let mut left = rest;
        for digit in digits[..9].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        digits[9] = b'Z';
        out.extend_from_slice(&digits);
    }
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468; // since the first of March of the year 0
    let era = shifted.div_euclid(146_097); // of 400 years
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153; // months since March
    let day = (of_year - (153 * march + 2) / 5 + 1) as u32;
    let month = (if march < 10 { march + 3 } else { march - 9 }) as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (11_016, (2000, 2, 29)), (20_780, (2026, 11, 23))]
        {
            assert_eq!(civil(days), date);
        }
    }
}
