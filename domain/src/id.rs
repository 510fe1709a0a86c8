//! Identifiers: UUID v7, one type for each noun so that no two can be mixed up. They increase with time, so "newest
//! first" is the order of the primary key.

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize, sqlx::Type, utoipa::ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// A new one, greater than all that this process made before.
            #[allow(clippy::new_without_default, reason = "no two are equal")]
            pub fn new() -> Self {
                Self(uuid::Uuid::now_v7())
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<uuid::Uuid> for $name {
            fn from(id: uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for uuid::Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )+};
}

/// An id that clients see. A noun may define its own beside its other types, as `export` does.
macro_rules! public {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        $crate::id::id! { $($(#[$doc])* $name),+ }
        $(
            impl std::fmt::Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    self.0.fmt(f)
                }
            }
        )+
    };
}

pub(crate) use {id, public};

id! {
    /// The queue's own id, which can be neither shown nor logged: clients know a job by the id of its generation,
    /// training, import or export.
    JobId,
}

public! {
    ProjectId,
    GenerationId,
    TrainingId,
    ImportId,
    DatasetId,
    ExampleId,
    ModelId,
    ArtifactId,
    UploadId,
    InputId,
    SwapId,
    KeyId,
    DeliveryId,
    WebhookId,
    /// One run of a worker process; after a restart it has a new one.
    WorkerId,
}

impl ProjectId {
    /// The project `default`, which every installation has (migration 0011).
    pub const DEFAULT: ProjectId = ProjectId(uuid::Uuid::from_u128(0x7000_8000_0000_0000_0000));
}
