//! The keys of the bucket, read backwards: whose object a key is. Anything that this module does not recognise is not
//! ours, and is never listed or deleted by the sweeper.

use uuid::Uuid;

/// The folders with objects of rows, for lists.
pub(crate) const FOLDERS: [&str; 7] =
    ["artifacts", "checkpoints", "datasets", "inputs", "models", "sources", "uploads"];

/// What a key says about its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// One of [`FOLDERS`].
    pub folder: &'static str,
    /// The first id of the key: a job, training, dataset, input, model, generation or upload.
    pub owner: Uuid,
    /// The attempt that stored it; 0 if no attempt did.
    pub epoch: i64,
}

/// Whether objects below `prefix` would stand among ours.
pub fn is_own_folder(prefix: &str) -> bool {
    prefix.split('/').next().is_some_and(|first| FOLDERS.contains(&first))
}

/// Reads a key that [`super::StorageKey`] has made. `None` for every other one.
pub(crate) fn place(key: &str) -> Option<Place> {
    let segments: Vec<&str> = key.split('/').collect();
    let folder = FOLDERS.into_iter().find(|folder| *folder == segments[0])?;
    let of = |owner, epoch| Some(Place { folder, owner, epoch });
    match (folder, &segments[1..]) {
        ("artifacts", [job, epoch, file]) => {
            file_of_number(file)?;
            of(id(job)?, number(epoch)?)
        }
        ("checkpoints", [training, epoch, file]) => {
            file_of_number(file)?;
            of(id(training)?, number(epoch)?)
        }
        ("datasets", [dataset, file]) => {
            id(stem(file)?)?;
            of(id(dataset)?, 0)
        }
        ("inputs", [file]) => of(id(stem(file)?)?, 0),
        ("models", [model, path @ ..]) if !path.is_empty() && path.iter().all(|part| !part.is_empty()) => {
            of(id(model)?, 0)
        }
        ("sources", [generation, file]) => {
            stem(file).filter(|role| ["image", "mask"].contains(role))?;
            of(id(generation)?, 0)
        }
        ("uploads", [upload]) => of(id(upload)?, 0),
        ("uploads", [upload, part]) => {
            number(part)?;
            of(id(upload)?, 0)
        }
        _ => None,
    }
}

/// An id exactly as it is written.
fn id(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|id| id.hyphenated().to_string() == text)
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == text)
}

/// The name of a file without its one extension.
fn stem(file: &str) -> Option<&str> {
    let (stem, extension) = file.split_once('.')?;
    (!extension.is_empty() && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(stem)
}

fn file_of_number(file: &str) -> Option<u32> {
    let stem = stem(file)?;
    stem.parse().ok().filter(|number: &u32| number.to_string() == stem)
}

#[cfg(test)]
mod tests {
    use super::super::StorageKey;
    use super::*;
    use crate::{DatasetId, ExampleId, GenerationId, ImportId, InputId, JobId, ModelId, TrainingId, UploadId};

    #[test]
    fn every_key_of_ours_is_recognised() {
        let (job, training, upload) = (JobId::new(), TrainingId::new(), UploadId::new());
        let (model, generation, import) = (ModelId::new(), GenerationId::new(), ImportId::new());
        let dataset = DatasetId::new();
        let example = ExampleId::new();
        for (key, folder, owner, epoch) in [
            (StorageKey::DatasetExample { dataset, example, extension: "png" }, "datasets", dataset.0, 0),
            (StorageKey::Upload { upload }, "uploads", upload.0, 0),
            (StorageKey::UploadPart { upload, number: 3 }, "uploads", upload.0, 0),
            (StorageKey::Source { generation, role: "mask", extension: "webp" }, "sources", generation.0, 0),
            (StorageKey::ModelFile { model, path: "vae/config.json".into() }, "models", model.0, 0),
            (StorageKey::ImportedFile { import, epoch: 1, path: "a.gguf".into() }, "models", import.0, 0),
            (StorageKey::Artifact { job, epoch: 7, position: 0, extension: "png" }, "artifacts", job.0, 7),
            (StorageKey::TrainingCheckpoint { training, epoch: 2, step: 50 }, "checkpoints", training.0, 2),
        ] {
            let place = place(&key.to_string()).unwrap_or_else(|| panic!("{key} is not recognised"));
            assert_eq!((place.folder, place.owner, place.epoch), (folder, owner, epoch), "{key}");
        }
        let input = InputId::new();
        let key = StorageKey::Input { input, extension: "jpg" }.to_string();
        assert_eq!(place(&key).map(|place| place.owner), Some(input.0));
    }

    #[test]
    fn other_keys_are_not_ours() {
        let id = Uuid::now_v7();
        for key in [
            String::new(),
            "pyrograph.json".to_owned(),
            format!("pyrograph/{id}.json"),
            format!("archive/artifacts/{id}/1/0.png"),
            format!("artifacts/{id}/1/0.png/more"),
            format!("artifacts/{id}/one/0.png"),
            format!("artifacts/{id}/1/thumbnail.png"),
            format!("artifacts/{id}/1/0.tar.gz"),
            format!("artifacts/{}/1/0.png", id.simple()),
            format!("artifacts/{}/1/0.png", id.to_string().to_uppercase()),
            "inputs/holiday.png".to_owned(),
            format!("inputs/{id}"),
            format!("inputs/{id}/0.png"),
            format!("models/{id}"),
            format!("models/{id}/"),
            "models/my-backup/model.safetensors".to_owned(),
            format!("sources/{id}/notes.txt"),
            format!("uploads/{id}/last"),
            format!("datasets/{id}/photo.png"),
        ] {
            assert_eq!(place(&key), None, "{key}");
        }
    }
}
