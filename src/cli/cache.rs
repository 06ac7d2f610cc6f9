//! `ches cache`: looking after a directory of scores.

use datafusion::error::{DataFusionError, Result};
use datafusion_ches::compact_cache;

/// Puts the small files of a cache together, and reports the result.
pub(super) async fn compact(place: &str, is_quiet: bool) -> Result<()> {
    let failed = |reason: String| DataFusionError::Execution(format!("ches cache: {reason}"));
    let models = compact_cache(place).await.map_err(failed)?;
    for model in &models {
        let ([before, after], [rows, left]) = (model.files, model.rows);
        if !is_quiet {
            println!(
                "{}: {before} files are {after} now; of {rows} rows put together {left} are left",
                model.model
            );
        }
        for (file, reason) in &model.ignored {
            eprintln!("{}: {file} is left as it is: {reason}", model.model);
        }
    }
    if models.is_empty() && !is_quiet {
        println!("{place}: no scores");
    }
    Ok(())
}
