//! The values that measures write: as long as usual configuration, and all different. Pure.
//!
//! The text consists of pseudorandom numbers, so that no store can compress it much, and is equal
//! in every run.

use serde_json::{Value, json};

/// The approximate size of a value without its text, in bytes.
const AROUND: usize = 60;

/// A value of approximately `bytes` bytes of JSON. Different numbers give different values.
pub(crate) fn value(number: u64, bytes: usize) -> Value {
    let mut text = String::with_capacity(bytes);
    let mut seed = number;
    while text.len() + AROUND < bytes {
        // The multiplier and increment of Knuth's MMIX.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:x} ", seed >> 32));
    }
    json!({ "enabled": true, "number": number, "prompt": text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_have_the_requested_length() {
        let [one, other] = [value(1, 1_024).to_string(), value(2, 1_024).to_string()];
        assert_ne!(one, other);
        assert!((1_000..=1_050).contains(&one.len()), "{}", one.len());
        assert!((280..=320).contains(&value(7, 300).to_string().len()));
    }
}
