//! A model by what it is, whatever path it has on which machine.

use std::fmt;

use datafusion_ches::ches_udfs::{ChesSettings, Scorer};

/// How such a value of `ches.model` begins.
const PREFIX: &str = "model ";

/// The release that computes, and the fingerprint of the model; no fingerprint stands for any model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelName {
    version: String,
    fingerprint: Option<String>,
}

impl ModelName {
    /// Of this process, and of the model that these settings name.
    pub(super) fn of(scorer: &dyn Scorer, settings: &ChesSettings) -> Self {
        let entries = scorer.provenance(settings);
        let fingerprint = entries.into_iter().find(|(key, _)| key == "ches.model");
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: fingerprint.map(|(_, value)| value),
        }
    }

    /// Reads what stands in a setting; none if that is something else.
    fn parse(value: &str) -> Option<Self> {
        let (version, fingerprint) = value.strip_prefix(PREFIX)?.split_once(' ')?;
        Some(Self {
            version: version.to_owned(),
            fingerprint: (fingerprint != "any").then(|| fingerprint.to_owned()),
        })
    }

    /// Whether this process is what a query's `ches.model` asks for.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn check(&self, asked: Option<&str>) -> Result<(), String> {
        let Some(asked) = asked else {
            return Ok(());
        };
        let Some(client) = Self::parse(asked) else {
            return Err(format!(
                "'{asked}': the executors of a cluster score by the model that they were started with; \
                 accepted: nothing, or the client's --model to be compared with theirs"
            ));
        };
        if client.version != self.version {
            return Err(format!(
                "the client is datafusion-ches {} and this executor {}; accepted: the same version",
                client.version, self.version
            ));
        }
        match (&client.fingerprint, &self.fingerprint) {
            (Some(client), Some(here)) if client != here => Err(format!(
                "the client's model has the fingerprint {client} and this executor's {here}; accepted: \
                 the same model"
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = self.fingerprint.as_deref().unwrap_or("any");
        write!(f, "{PREFIX}{} {fingerprint}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(version: &str, fingerprint: Option<&str>) -> ModelName {
        ModelName {
            version: version.into(),
            fingerprint: fingerprint.map(str::to_owned),
        }
    }

    #[test]
    fn what_differs_is_said() {
        let here = name("1.2.3", Some("abc"));
        assert_eq!(here.check(None), Ok(()));
        for same in [&here, &name("1.2.3", None)] {
            assert_eq!(here.check(Some(&same.to_string())), Ok(()));
        }
        for (asked, what) in [
            (
                name("1.2.4", None).to_string(),
                "1.2.4 and this executor 1.2.3",
            ),
            (
                name("1.2.3", Some("abd")).to_string(),
                "abd and this executor's abc",
            ),
            ("/models/a".into(), "'/models/a': the executors"),
        ] {
            let error = here.check(Some(&asked)).unwrap_err();
            assert!(
                error.contains(what) && error.contains("accepted: "),
                "{error}"
            );
        }
    }
}
