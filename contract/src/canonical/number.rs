//! The one rule of numbers: which tokens a document may have, and their canonical digits.
//!
//! A number comes back as the same number, or it is refused. Integers keep their digits within
//! `i64`. Everything else is a double, which tells numbers of up to 17 significant digits apart. A
//! token is accepted when the double, rounded to as many digits as the token has, is the token:
//! `0.1` and `0.10000000000000001` are, `3.141592653589793238` is not. Nothing here knows where in a
//! document the number is.

use super::double;

/// Significant digits that are enough to tell any two doubles apart.
const DOUBLE_DIGITS: usize = 17;

/// The canonical digits of a number token of JSON, or the reason of the refusal.
pub(super) fn canonical(token: &str) -> Result<String, &'static str> {
    let is_integer = !token.contains(['.', 'e', 'E']);
    if is_integer && let Ok(integer) = token.parse::<i64>() {
        return Ok(integer.to_string());
    }
    let number: f64 = token.parse().map_err(|_malformed| "not a number")?;
    let digits =
        double(number).ok_or("number beyond the range of a double: write it as a string")?;
    if is_integer {
        return if digits == token {
            Ok(digits)
        } else {
            Err("integer beyond 64 bits would lose digits: send it as a string")
        };
    }
    let given = Decimal::of(token).ok_or("exponent out of range")?;
    if given.is_same_as(number, &digits) {
        Ok(digits)
    } else {
        Err("decimal number with more digits than a double gives back: write it as a string")
    }
}

/// A decimal number without its sign: `0.{digits} * 10^exponent`.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    /// Without zeros at either end; empty for zero.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// The number of a token of JSON; `None` when its exponent is beyond 64 bits.
    fn of(token: &str) -> Option<Self> {
        let token = token.trim_start_matches('-');
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let from_first = all.trim_start_matches('0');
        let digits = from_first.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            let exponent = 0;
            return Some(Self { digits, exponent });
        }
        let leading_zeros = i64::try_from(all.len() - from_first.len()).ok()?;
        let exponent = exponent
            .parse::<i64>()
            .ok()?
            .checked_add(i64::try_from(whole.len()).ok()?)?
            .checked_sub(leading_zeros)?;
        Some(Self { digits, exponent })
    }

    /// Whether the nearest double, whose shortest digits are `shortest`, is this number again.
    fn is_same_as(&self, number: f64, shortest: &str) -> bool {
        let is = |text: &str| Self::of(text).as_ref() == Some(self);
        let length = self.digits.len();
        if is(shortest) {
            return true;
        }
        // Two writers may round a value in the middle between two decimals differently.
        (1..=DOUBLE_DIGITS).contains(&length)
            && (is(&format!("{number:.*e}", length - 1)) || is(&format!("{number:e}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_a_double_gives_back_is_accepted() {
        for (token, digits) in [
            ("0.1", "0.1"),
            ("0.10", "0.1"),
            ("1.0", "1"),
            ("-0.0", "0"),
            ("0e999999", "0"),
            ("0.30000000000000004", "0.30000000000000004"),
            // As C and Java write it, with 17 digits.
            ("0.10000000000000001", "0.1"),
            ("3.141592653589793", "3.141592653589793"),
            ("333333333.33333331", "333333333.3333333"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            // The smallest double; Java writes it with two digits.
            ("5e-324", "5e-324"),
            ("4.9E-324", "5e-324"),
            ("1E30", "1e+30"),
            ("1e20", "100000000000000000000"),
            ("9007199254740992.0", "9007199254740992"),
            ("0.000000000000000000000000001", "1e-27"),
        ] {
            assert_eq!(canonical(token).as_deref(), Ok(digits), "{token}");
        }
    }

    #[test]
    fn a_number_that_would_come_back_as_another_is_refused() {
        for token in [
            "3.141592653589793238",
            "0.1000000000000000055511151231257827",
            "0.30000000000000001665",
            "9007199254740993.0",
            "1.0000000000000000001",
            "1e400",
            "-1.5e309",
            "1e-400",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "123456789012345678.5",
            "9223372036854775808",
            "123456789012345678901",
        ] {
            canonical(token).expect_err(token);
        }
    }

    proptest! {
        /// What any usual writer of doubles makes of a double is accepted, and is the same double.
        #[test]
        fn every_double_is_accepted_in_each_of_its_forms(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            for token in [format!("{number:e}"), format!("{number:.16e}"), format!("{number:?}")] {
                let digits = canonical(&token).expect(&token);
                prop_assert_eq!(digits.parse::<f64>().expect("a number"), number);
                prop_assert_eq!(canonical(&digits), Ok(digits));
            }
        }

        /// Fifteen digits always survive a double.
        #[test]
        fn up_to_fifteen_digits_are_never_refused(digits in 1_u64..1_000_000_000_000_000, exponent in -280_i32..280) {
            let token = format!("{digits}e{exponent}");
            let canonical = canonical(&token).expect(&token);
            prop_assert_eq!(Decimal::of(&canonical), Decimal::of(&token));
        }
    }
}
