//! The adapters of a folder: which there are, which models they fit, and those that are in memory.
//!
//! An adapter's name is its file's, without the ending, and is looked up among the names that the folder holds: no name
//! leads out of it. The folder may change at any time, so it is looked at whenever somebody asks; a file is read again
//! only when its length or its time has changed. What a file may hold is `cogvideox::lora`'s affair.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

use api::{Adapter, BoxFuture, OfferAdapters};
use cogvideox::lora::{LoraAdapter, LoraChoice};
use cogvideox::transformer::TransformerConfig;
use futures_util::FutureExt as _;
use queue::Lora;
use worker::GenerateError;

/// What the names of adapters' files end in.
const ENDING: &str = ".safetensors";
/// The longest name of an adapter, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Bytes of files whose adapters stay in memory when nobody uses them: a few of the largest that are published.
const CACHE_BYTES: u64 = 2 << 30;

/// By what a file is known to be the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

/// A folder of adapters.
#[derive(Debug)]
pub(crate) struct AdapterFolder {
    dir: PathBuf,
}

impl AdapterFolder {
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let folder = Self { dir: dir.to_owned() };
        folder.files().map(|_| folder)
    }

    /// What lies there now, by name.
    fn files(&self) -> io::Result<BTreeMap<String, Stamp>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(ENDING)) else { continue };
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
                continue;
            }
            // Of what a link leads to. A file that went meanwhile, or a broken link, is none.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_file() {
                let stamp = Stamp { bytes: metadata.len(), modified: metadata.modified().ok() };
                files.insert(name.to_owned(), stamp);
            }
        }
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{ENDING}"))
    }
}

/// What a file was found to be.
struct Known {
    stamp: Stamp,
    /// Its digest and, for each model, why they do not go together; or why it is no adapter.
    found: Result<(String, Vec<Option<String>>), String>,
}

/// The folder as the API's door sees it.
#[derive(Clone)]
pub(crate) struct AdapterOffer(Arc<Inner>);

struct Inner {
    folder: Arc<AdapterFolder>,
    /// What adapters must fit, by the models' names.
    models: Vec<(String, TransformerConfig)>,
    known: Mutex<BTreeMap<String, Known>>,
}

impl AdapterOffer {
    pub(crate) fn new(folder: Arc<AdapterFolder>, models: Vec<(String, TransformerConfig)>) -> Self {
        Self(Arc::new(Inner { folder, models, known: Mutex::default() }))
    }

    /// Looks at the folder, and reads what is new there.
    pub(crate) fn adapters_of(&self, model: &str) -> Vec<Adapter> {
        let Inner { folder, models, known } = &*self.0;
        let files = folder.files().unwrap_or_else(|error| {
            tracing::error!(folder = %folder.dir.display(), %error, "the adapters cannot be listed");
            BTreeMap::new()
        });
        // Held while files are read, so that two who ask at once do not both read them.
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, one| files.get(name) == Some(&one.stamp));
        for (name, stamp) in files {
            known.entry(name).or_insert_with_key(|name| Known {
                stamp,
                found: inspect(&folder.path(name), models).inspect_err(|reason| {
                    tracing::warn!(adapter = name, reason, "a file is no adapter");
                }),
            });
        }
        let place = models.iter().position(|(name, _)| name == model);
        let adapter = |(name, one): (&String, &Known)| {
            let fault = |faults: &[Option<String>]| place.and_then(|place| faults[place].clone());
            let sha256 = match &one.found {
                Ok((sha256, faults)) => fault(faults).map_or_else(|| Ok(sha256.clone()), Err),
                Err(reason) => Err(reason.clone()),
            };
            Adapter { name: name.clone(), sha256 }
        };
        known.iter().map(adapter).collect()
    }
}

impl OfferAdapters for AdapterOffer {
    fn adapters<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Vec<Adapter>> {
        let (offer, model) = (self.clone(), model.to_owned());
        async move {
            let looked = tokio::task::spawn_blocking(move || offer.adapters_of(&model)).await;
            looked.unwrap_or_else(|error| {
                tracing::error!(%error, "the adapters cannot be listed");
                Vec::new()
            })
        }
        .boxed()
    }
}

/// Reads a whole file once: for its digest, and for what it is.
fn inspect(
    path: &Path,
    models: &[(String, TransformerConfig)],
) -> Result<(String, Vec<Option<String>>), String> {
    let adapter = LoraAdapter::load(path).map_err(|error| words(&error))?;
    let faults = models.iter().map(|(_, config)| adapter.check(config).err().map(|error| words(&error)));
    Ok((adapter.digest().to_owned(), faults.collect()))
}

/// An error of a file for those who know its name, but not where it lies.
fn words(error: &cogvideox::Error) -> String {
    match error {
        cogvideox::Error::Weights { message, .. } => message.clone(),
        cogvideox::Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// The adapters that videos were made with of late. Workers share it.
#[derive(Debug)]
pub(crate) struct AdapterCache {
    folder: Arc<AdapterFolder>,
    /// With the bytes of their files; the one that was used last stands last.
    loaded: Mutex<Vec<(u64, Arc<LoraAdapter>)>>,
}

impl AdapterCache {
    pub(crate) fn new(folder: Arc<AdapterFolder>) -> Self {
        Self { folder, loaded: Mutex::default() }
    }

    /// The adapters of a video, read where they are not in memory.
    ///
    /// # Errors
    /// A file that is gone, unreadable, or another one than the video's.
    pub(crate) fn load(&self, lora: &[Lora]) -> Result<Vec<LoraChoice>, GenerateError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut choices = Vec::with_capacity(lora.len());
        for Lora { name, scale, sha256 } in lora {
            let place = loaded.iter().position(|(_, adapter)| adapter.digest() == sha256);
            let entry = match place {
                Some(place) => loaded.remove(place),
                None => self.read(name, sha256)?,
            };
            choices.push(LoraChoice { adapter: Arc::clone(&entry.1), scale: *scale });
            loaded.push(entry);
        }
        while loaded.iter().map(|(bytes, _)| bytes).sum::<u64>() > CACHE_BYTES {
            loaded.remove(0);
        }
        Ok(choices)
    }

    fn read(&self, name: &str, sha256: &str) -> Result<(u64, Arc<LoraAdapter>), GenerateError> {
        let unavailable = |why: String| {
            GenerateError::LoraNotAvailable(format!("the adapter '{name}' cannot be used any more: {why}"))
        };
        let files = self.folder.files().map_err(|error| unavailable(error.to_string()))?;
        let stamp = files.get(name).ok_or_else(|| unavailable("its file is gone".to_owned()))?;
        let adapter =
            LoraAdapter::load(&self.folder.path(name)).map_err(|error| unavailable(words(&error)))?;
        if adapter.digest() != sha256 {
            return Err(GenerateError::LoraChanged(format!(
                "the adapter '{name}' is another file than the video was asked for with: expected the SHA-256 \
                 {sha256}, found {}",
                adapter.digest()
            )));
        }
        tracing::info!(adapter = name, bytes = stamp.bytes, "adapter loaded");
        Ok((stamp.bytes, Arc::new(adapter)))
    }
}

#[cfg(test)]
mod tests {
    use cogvideox::ModelDescription;

    use super::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cogvideox/tests/golden");

    fn copy(name: &str, to: &Path) {
        fs::copy(format!("{GOLDEN}/lora/{name}.safetensors"), to).unwrap();
    }

    fn offer(dir: &Path) -> AdapterOffer {
        let config = |form: &str| ModelDescription::read(&Path::new(GOLDEN).join(form)).unwrap().transformer;
        let models = ["2b", "5b"].map(|form| (form.to_owned(), config(form)));
        AdapterOffer::new(Arc::new(AdapterFolder::open(dir).unwrap()), models.into())
    }

    fn names(adapters: &[Adapter]) -> Vec<(&str, bool)> {
        adapters.iter().map(|adapter| (adapter.name.as_str(), adapter.sha256.is_ok())).collect()
    }

    #[test]
    fn the_folder_is_looked_at_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let offer = offer(dir.path());
        assert_eq!(offer.adapters_of("2b"), []);
        let path = dir.path().join("motion.safetensors");
        copy("2b/motion", &path);
        fs::write(dir.path().join("broken.safetensors"), "no tensors").unwrap();
        fs::write(dir.path().join("notes.txt"), "not an adapter").unwrap();
        fs::create_dir(dir.path().join("folder.safetensors")).unwrap();
        let first = offer.adapters_of("2b");
        assert_eq!(names(&first), [("broken", false), ("motion", true)]);
        assert_eq!(offer.adapters_of("2b"), first);
        copy("2b/style", &path);
        let second = offer.adapters_of("2b");
        assert_eq!(names(&second), names(&first));
        assert_ne!(second[1].sha256, first[1].sha256);
        fs::remove_file(&path).unwrap();
        assert_eq!(names(&offer.adapters_of("2b")), [("broken", false)]);
        assert!(AdapterFolder::open(&path).is_err());
    }

    #[test]
    fn a_name_that_is_not_in_the_folder_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        copy("2b/motion", &dir.path().join("outside.safetensors"));
        let cache = AdapterCache::new(Arc::new(AdapterFolder::open(&dir.path().join("in")).unwrap()));
        let lora = Lora { name: "../outside".to_owned(), scale: 1.0, sha256: String::new() };
        let error = cache.load(&[lora]).unwrap_err();
        assert!(matches!(&error, GenerateError::LoraNotAvailable(why) if why.contains("gone")), "{error}");
    }

    #[test]
    fn what_is_in_memory_is_known_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.safetensors");
        copy("2b/motion", &path);
        let sha256 = offer(dir.path()).adapters_of("2b")[0].sha256.clone().unwrap();
        let cache = AdapterCache::new(Arc::new(AdapterFolder::open(dir.path()).unwrap()));
        let lora = [Lora { name: "motion".to_owned(), scale: 0.5, sha256 }];
        let first = cache.load(&lora).unwrap();
        assert!((first[0].scale - 0.5).abs() < f64::EPSILON);
        copy("2b/style", &path);
        assert!(Arc::ptr_eq(&cache.load(&lora).unwrap()[0].adapter, &first[0].adapter));
        let fresh = AdapterCache::new(Arc::new(AdapterFolder::open(dir.path()).unwrap()));
        let error = fresh.load(&lora).unwrap_err();
        assert!(matches!(&error, GenerateError::LoraChanged(why) if why.contains("found")), "{error}");
    }
}
