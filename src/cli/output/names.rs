//! What the name of a file that a `COPY` writes says of its compression.
//!
//! DataFusion asks the last extension for a format, which in `x.jsonl.gz` is the compression's.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{GetExt, plan_datafusion_err};
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, format_as_file_type};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;
use datafusion_ches::tables::{Format, Kind};

/// The option that says it without a name.
const COMPRESSION: &str = "format.compression";

const EXTENSIONS: [&str; 6] = ["gz", "gzip", "zst", "zstd", "bz2", "xz"];

/// Lets a session plan a `COPY` to such names.
///
/// # Errors
/// When it refuses one.
pub(crate) fn register(state: &mut SessionState) -> Result<()> {
    EXTENSIONS.into_iter().try_for_each(|extension| {
        state.register_file_format(Arc::new(Compressed(extension)), false)
    })
}

/// The same plan, with the format and the compression that names say.
///
/// # Errors
/// When a name says only a compression.
pub(crate) fn compressed_by_name(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_down(|node| match node {
        LogicalPlan::Copy(copy) => Ok(Transformed::yes(LogicalPlan::Copy(by_name(state, copy)?))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn by_name(state: &SessionState, mut copy: CopyTo) -> Result<CopyTo> {
    let name = copy.output_url.rsplit('/').next().unwrap_or_default();
    let is_only_compression = EXTENSIONS.contains(&copy.file_type.get_ext().as_str());
    let format = Format::of_name(name, |_| false).filter(|format| format.is_compressed());
    let Some(format) = format else {
        return match is_only_compression {
            true => Err(plan_datafusion_err!(
                "'{}': {}",
                copy.output_url,
                accepted()
            )),
            false => Ok(copy),
        };
    };
    if is_only_compression {
        let extension = match format.kind {
            Kind::Csv => "csv",
            Kind::Tsv => "tsv",
            Kind::Json | Kind::Parquet | Kind::Arrow | Kind::Other(_) => "json",
        };
        if let Some(factory) = state.get_file_format_factory(extension) {
            copy.file_type = format_as_file_type(factory);
        }
    }
    let is_said = |key: &String| key.eq_ignore_ascii_case(COMPRESSION);
    if ["csv", "tsv", "json", "jsonl", "ndjson"].contains(&copy.file_type.get_ext().as_str())
        && !copy.options.keys().any(is_said)
    {
        let compression = format.compression.to_string();
        copy.options.insert(COMPRESSION.into(), compression);
    }
    Ok(copy)
}

fn accepted() -> String {
    let names = EXTENSIONS.map(|extension| format!(".{extension}"));
    format!(
        "accepted: a name that ends in a format's extension, or for CSV, TSV and JSON in one of these before {}",
        names.join(", ")
    )
}

/// The name of a compression in the place of a format's.
struct Compressed(&'static str);

impl fmt::Debug for Compressed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.0)
    }
}

impl GetExt for Compressed {
    fn get_ext(&self) -> String {
        self.0.into()
    }
}

impl FileFormatFactory for Compressed {
    fn create(
        &self,
        _state: &dyn Session,
        _options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        Err(plan_datafusion_err!(
            "'{}' is a compression; {}",
            self.0,
            accepted()
        ))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(datafusion_ches::tables::JsonFormat::default())
    }
}
