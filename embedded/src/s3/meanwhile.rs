//! Objects that another request deletes meanwhile. `s3s-fs` looks for a file before it opens it, and walks through
//! folders; what vanishes in between is an `InternalError` to it.

use std::path::Path;

use s3s::{S3ErrorCode, S3Result, s3_error};

/// How often a bucket is listed until nothing vanishes on the way.
pub(super) const LISTINGS: usize = 20;

pub(super) fn is_internal<T>(answer: &S3Result<T>) -> bool {
    matches!(answer, Err(error) if *error.code() == S3ErrorCode::InternalError)
}

/// The answer to an operation on the object in `file`, which does not exist if it was deleted meanwhile.
pub(super) fn settled<T>(file: &Path, answer: S3Result<T>) -> S3Result<T> {
    if is_internal(&answer) && !file.exists() { Err(s3_error!(NoSuchKey)) } else { answer }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use s3s::dto::{CopyObjectInput, CopySource, ListObjectsV2Input};
    use s3s::{S3, S3Request};

    use super::super::bucket::Buckets;
    use super::*;

    fn request<T>(input: T) -> S3Request<T> {
        S3Request {
            input,
            method: http::Method::GET,
            uri: http::Uri::default(),
            headers: http::HeaderMap::default(),
            extensions: http::Extensions::default(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_object_that_vanishes_before_it_is_copied_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let bucket = root.path().join("pyrograph");
        fs::create_dir(&bucket).unwrap();
        let buckets = Buckets::open(root.path()).unwrap();
        for index in 0..1000 {
            let object = bucket.join(index.to_string());
            fs::write(&object, "x").unwrap();
            let key = index.to_string().into();
            let source = CopySource::Bucket { bucket: "pyrograph".into(), key, version_id: None };
            let mut copy = CopyObjectInput::builder();
            copy.set_bucket("pyrograph".to_owned()).set_key("copy".to_owned()).set_copy_source(source);
            let removed = tokio::task::spawn_blocking(move || fs::remove_file(object).unwrap());
            if let Err(error) = buckets.copy_object(request(copy.build().unwrap())).await {
                assert_eq!(*error.code(), S3ErrorCode::NoSuchKey, "{error}");
            }
            removed.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_vanishes_is_not_there_and_spoils_no_list() {
        let root = tempfile::tempdir().unwrap();
        let bucket = root.path().join("pyrograph");
        fs::create_dir(&bucket).unwrap();
        fs::write(bucket.join("there"), "x").unwrap();
        let buckets = Buckets::open(root.path()).unwrap();
        let failed = || Err::<(), _>(s3_error!(InternalError));
        let code = |key| settled(&bucket.join(key), failed()).unwrap_err().code().clone();
        assert_eq!((code("gone"), code("there")), (S3ErrorCode::NoSuchKey, S3ErrorCode::InternalError));

        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let folder = bucket.join("models/of/somebody");
                    fs::create_dir_all(&folder).unwrap();
                    fs::write(folder.join("weights"), "x").unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                    fs::remove_dir_all(bucket.join("models")).unwrap();
                }
            });
            let list = async {
                for _ in 0..300 {
                    let input = ListObjectsV2Input { bucket: "pyrograph".to_owned(), ..ListObjectsV2Input::default() };
                    let listed = buckets.list_objects_v2(request(input)).await.unwrap().output;
                    let keys = listed.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
                    assert!(keys.into_iter().any(|key| key == "there"));
                }
            };
            let listed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(list));
            }));
            stop.store(true, Ordering::Relaxed);
            listed.unwrap();
        });
    }
}
