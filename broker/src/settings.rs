//! The settings that both ends share, from the texts of the environment to a [`RedisConfig`]. An
//! empty text counts as not set. Nothing here reads the environment or connects.

use crate::{Address, Delivery, Names, Prefix, RedisConfig};

/// Default of `AURA_REDIS_URL`.
pub const URL: &str = "redis://127.0.0.1:6379";
/// Default of `AURA_REDIS_DATABASE`.
pub const DATABASE: &str = "0";
/// Default of `AURA_REDIS_CONFIGURATION_PREFIX` (requirement A3).
pub const PREFIX: &str = "aura-config";
/// Default of `AURA_REDIS_DELIVERY`.
pub const DELIVERY: &str = "PUBSUB";

/// The texts of the settings.
#[derive(Debug, Clone, Copy)]
pub struct RedisSettings<'a> {
    /// `AURA_REDIS_URL`
    pub url: &'a str,
    /// `AURA_REDIS_DATABASE`
    pub database: &'a str,
    /// `AURA_REDIS_CONFIGURATION_PREFIX`
    pub prefix: &'a str,
    /// `AURA_REDIS_DELIVERY`
    pub delivery: &'a str,
}

impl RedisSettings<'_> {
    /// Checks all settings. Each error is reported with the name of the setting, in words and
    /// without a password. The result is `None` after an error.
    ///
    /// `report` gets the name of the setting and the error. It is called once per wrong setting, so a
    /// user sees all of them at once.
    pub fn check(self, mut report: impl FnMut(&str, String)) -> Option<RedisConfig> {
        let or = |text, default| if str::is_empty(text) { default } else { text };
        // The URL may have a password, so the error does not repeat it.
        let address = or(self.url, URL).parse::<Address>();
        let address = address
            .map_err(|wrong| report("AURA_REDIS_URL", format!("…: {wrong}")))
            .ok();
        let given = or(self.database, DATABASE);
        let wrong = |_no_number| {
            report(
                "AURA_REDIS_DATABASE",
                format!("{given:?}: expected a whole number from 0"),
            )
        };
        let database = given.parse::<u32>().map_err(wrong).ok();
        let given = or(self.prefix, PREFIX);
        let wrong = |wrong| {
            report(
                "AURA_REDIS_CONFIGURATION_PREFIX",
                format!("{given:?}: {wrong}"),
            )
        };
        let prefix = given.parse::<Prefix>().map_err(wrong).ok();
        let given = or(self.delivery, DELIVERY);
        let delivery = given.parse::<Delivery>();
        let delivery = delivery
            .map_err(|wrong| report("AURA_REDIS_DELIVERY", format!("{given:?}: {wrong}")))
            .ok();
        // The other settings were checked as well before the first error ends the check.
        let address = address?;
        let database = database?;
        let address = address.in_database(database);
        let address = address
            .map_err(|wrong| report("AURA_REDIS_URL", format!("…: {wrong}")))
            .ok();
        Some(RedisConfig {
            address: address?,
            names: Names::new(database, &prefix?),
            delivery: delivery?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        url: &str,
        database: &str,
        prefix: &str,
        delivery: &str,
    ) -> Result<RedisConfig, Vec<String>> {
        let mut errors = Vec::new();
        let settings = RedisSettings {
            url,
            database,
            prefix,
            delivery,
        };
        settings
            .check(|name, what| errors.push(format!("{name}={what}")))
            .ok_or(errors)
    }

    #[test]
    fn empty_texts_mean_the_defaults() {
        let redis = check("", "", "", "").expect("the defaults");
        assert_eq!(format!("{:?}", redis.address), "redis://127.0.0.1:6379");
        assert_eq!(
            redis.names.channel(&"X".parse().expect("a name")),
            "0__:aura-config:X"
        );
        assert_eq!(redis.delivery, Delivery::PubSub);
    }

    #[test]
    fn all_errors_are_reported_without_a_password() {
        let errors = check("http://:secret@x", "-1", "{}", "QUEUE").expect_err("all wrong");
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(
            errors.iter().all(|error| !error.contains("secret")),
            "{errors:?}"
        );
        let errors = check("redis://:secret@x/3", "1", "", "streams").expect_err("two databases");
        assert_eq!(
            errors,
            ["AURA_REDIS_URL=…: it names database 3, AURA_REDIS_DATABASE 1"]
        );
    }
}
