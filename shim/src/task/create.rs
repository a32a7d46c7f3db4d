//! Create: stdio first, then the container, then everybody is told.

use super::{Task, adopt, blocking};
use crate::containers::{Record, Reservation};
use crate::convert;
use crate::error::Error;
use crate::events;
use crate::options::Options;
use crate::process::{Process, Streams};
use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use runtime_core::children::Child;
use runtime_core::container::{self, Container, CreateRequest};
use std::path::PathBuf;
use std::sync::Arc;

impl Task {
    pub(super) async fn create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse, Error> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented("restore from a checkpoint is not implemented".into()));
        }
        let reservation = self.containers.reserve(&request.id)?;
        let options = Options::decode(request.options.as_ref())?;
        options.check()?;
        let streams = Streams::from(&request);
        let owner = (options.io_uid, options.io_gid);
        let (io, files) = self.open_io("create", &request.id, &streams, owner).await?;
        let io = Arc::new(io);
        let (container, mut child) = match self.create_container(&request, options, files).await {
            Ok(created) => created,
            Err(error) => {
                io.close().await;
                return Err(error);
            }
        };
        let init = Process::new(streams);
        init.set_io(io.clone());
        if let Err(error) = adopt(&init, &io, &mut child, "create") {
            let undone = blocking("create", move || container.delete().map_err(Error::runtime("delete"))).await;
            if let Err(error) = undone {
                tracing::error!(id = request.id, error = error.text(), "undo a create");
            }
            io.close().await;
            return Err(error);
        }
        let bundle = PathBuf::from(&request.bundle);
        let record = Arc::new(Record::new(request.id.clone(), bundle, init, container, owner));
        Ok(self.created(request, reservation, record, child))
    }

    async fn create_container(
        &self,
        request: &CreateTaskRequest,
        options: Options,
        stdio: container::Stdio,
    ) -> Result<(Container, Child), Error> {
        let (id, bundle) = (request.id.clone(), PathBuf::from(&request.bundle));
        let rootfs = convert::rootfs(request.rootfs.clone());
        let runtime = self.runtime.clone();
        blocking("create", move || {
            let (spec, warnings) = runtime_core::spec::load(&bundle).map_err(|error| Error::Spec(Arc::new(error)))?;
            let options = container::Options {
                no_pivot_root: options.no_pivot_root,
                no_new_keyring: options.no_new_keyring,
                systemd_cgroup: options.systemd_cgroup,
                ..container::Options::default()
            };
            let request =
                CreateRequest { id: &id, bundle: &bundle, spec: &spec, rootfs: &rootfs, stdio, options: &options };
            let (container, mut child) = Container::create(request, &runtime).map_err(Error::runtime("create"))?;
            child.warnings.splice(..0, warnings);
            Ok((container, child))
        })
        .await
    }

    /// Tells of a new container. From here on its end is watched.
    fn created(
        &self,
        request: CreateTaskRequest,
        reservation: Reservation,
        record: Arc<Record>,
        child: Child,
    ) -> CreateTaskResponse {
        for warning in &child.warnings {
            tracing::warn!(id = record.id, "create: {warning}");
        }
        let pid = record.init.pid();
        let event = TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIO::from(&record.init.streams)).into(),
            checkpoint: request.checkpoint,
            pid,
            ..TaskCreate::default()
        };
        self.events.publish(events::CREATE, &event);
        let oom = record.container.cgroup().watch_oom().unwrap_or_else(|error| {
            tracing::warn!(id = record.id, error = crate::error::chain(&error), "no OOM events");
            None
        });
        reservation.fulfil(record.clone());
        self.exits.watch_init(record, child, oom);
        CreateTaskResponse { pid, ..CreateTaskResponse::default() }
    }
}
