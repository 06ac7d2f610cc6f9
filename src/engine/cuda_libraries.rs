//! The libraries that candle's CUDA backend loads while it runs. Where they are not on the library path
//! they may be those that Python packages brought (`site-packages/nvidia`, as torch's wheels do).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Names, each library after those that it needs, by what it is called in an error.
const LIBRARIES: [(&str, &[&str]); 4] = [
    ("cuBLASLt", &["libcublasLt.so.13", "libcublasLt.so.12"]),
    ("cuBLAS", &["libcublas.so.13", "libcublas.so.12"]),
    ("cuRAND", &["libcurand.so.10"]),
    ("NVRTC", &["libnvrtc.so.13", "libnvrtc.so.12"]),
];

/// Sees to it that the libraries are loaded, once.
///
/// # Errors
/// With the names of those that are nowhere.
pub(crate) fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(load_all).clone()
}

fn load_all() -> Result<(), String> {
    let folders = folders();
    let mut missing = Vec::new();
    for (name, files) in LIBRARIES {
        // A newer one anywhere before an older one.
        let places = files.iter().flat_map(|file| {
            let beside = folders.iter().map(move |folder| folder.join(file));
            [PathBuf::from(file)].into_iter().chain(beside)
        });
        match places.into_iter().find_map(|file| open(&file)) {
            Some(library) => {
                // For as long as the process lives: whoever asks for its name then gets it.
                std::mem::forget(library);
            }
            None => missing.push(format!("{name} ({})", files[0])),
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "these CUDA libraries are neither on the library path (LD_LIBRARY_PATH) nor among Python's \
             packages (site-packages/nvidia, as torch brings them): {}",
            missing.join(", ")
        )),
    }
}

fn open(file: &Path) -> Option<Library> {
    // SAFETY: loading one of NVIDIA's libraries runs its own initialisation and nothing of ours.
    unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }.ok()
}

/// Where Python packages of NVIDIA's have libraries.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable)
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for python in std::env::split_paths(&path).map(|folder| folder.join("python3")) {
        let real = python.canonicalize().ok();
        let of_environment = python.is_file().then_some(python);
        let pythons = of_environment.into_iter().chain(real);
        prefixes.extend(pythons.filter_map(|python| Some(python.parent()?.parent()?.to_owned())));
    }
    prefixes.extend(variable("HOME").map(|home| home.join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut folders = Vec::new();
    for prefix in prefixes {
        for packages in ["site-packages", "dist-packages"] {
            let lib = prefix.join("lib");
            let pattern = lib.join("python3*").join(packages).join("nvidia/*/lib");
            let found = pattern
                .to_str()
                .and_then(|pattern| glob::glob(pattern).ok());
            for folder in found.into_iter().flatten().flatten() {
                if !folders.contains(&folder) {
                    folders.push(folder);
                }
            }
        }
    }
    folders
}
