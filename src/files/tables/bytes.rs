//! The bytes of a file as they come, decompressed.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};

/// Bytes that are read from a local file at once.
const CHUNK: usize = 1 << 20;

/// A file's bytes, or those of a range of it if it is not compressed.
///
/// # Errors
/// When it cannot be opened.
pub(super) async fn of_file(
    store: &Arc<dyn ObjectStore>,
    location: &Path,
    range: Option<Range<u64>>,
    compression: FileCompressionType,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let options = GetOptions {
        range: range.map(GetRange::Bounded),
        ..GetOptions::default()
    };
    let found = store.get_opts(location, options).await?;
    match found.payload {
        GetResultPayload::File(mut file, _) => {
            file.seek(SeekFrom::Start(found.range.start))?;
            let file = file.take(found.range.end - found.range.start);
            let file = BufReader::with_capacity(CHUNK, file);
            let reader = compression.convert_read(file)?;
            let chunks = std::iter::from_fn({
                let mut reader = reader;
                move || next_chunk(&mut reader).transpose()
            });
            Ok(futures::stream::iter(chunks).boxed())
        }
        GetResultPayload::Stream(stream) => {
            let stream = stream.map_err(DataFusionError::from).boxed();
            compression.convert_stream(stream)
        }
    }
}

/// Whether files are on this machine, where reading costs little.
pub(super) fn is_local(store: &Arc<dyn ObjectStore>) -> bool {
    store.to_string().contains("LocalFileSystem")
}

/// What a file is called in messages.
pub(super) fn name(store: &Arc<dyn ObjectStore>, location: &Path) -> String {
    match is_local(store) {
        true => format!("/{location}"),
        false => location.to_string(),
    }
}

fn next_chunk(reader: &mut impl Read) -> Result<Option<Bytes>> {
    let mut chunk = vec![0; CHUNK];
    let mut filled = 0;
    while filled < CHUNK {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    chunk.truncate(filled);
    Ok((filled > 0).then(|| chunk.into()))
}
