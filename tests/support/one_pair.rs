//! Scoring one pair with a model file or directory that may be made to harm.

use std::path::Path;

use datafusion_ches::ModelScorer;
use datafusion_ches::ches_udfs::{
    ChesSettings, Job, Needs, PairScores, PreferencePair, Scorer, Text,
};

/// The scores of a prompt with a chosen and a rejected response; `Err` is what the query would
/// say.
pub(crate) async fn score_one(model: &Path, texts: [&str; 3]) -> Result<PairScores, String> {
    let settings = ChesSettings {
        model: Some(model.to_str().unwrap().into()),
        ..ChesSettings::default()
    };
    let [prompt, chosen, rejected] = texts.map(|text| Text::Plain(text.into()));
    let pair = PreferencePair {
        prompt,
        chosen,
        rejected,
        variables: Vec::new(),
    };
    // A scorer of its own: the files differ faster than their times do.
    let scored = ModelScorer::new()
        .score_pairs(&Job::new(settings, Needs::all()), vec![pair])
        .await
        .map_err(|error| error.to_string())
        .and_then(|mut rows| rows.remove(0).map_err(|error| error.reason));
    if let Err(error) = &scored {
        assert!(!error.contains("panic"), "{error}");
    }
    scored
}
