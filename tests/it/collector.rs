//! An OTLP collector: it takes traces and metrics over gRPC, as OpenTelemetry's own collector does, and keeps
//! them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use wal_indexer::internals::formatting::hex;

/// A span and its service.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub trace_id: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// The numbers of the proto: 2 is a server's span, 3 a client's.
    pub kind: i32,
    pub is_error: bool,
    pub begun_ns: u64,
    pub ended_ns: u64,
    attributes: BTreeMap<String, Value>,
}

impl Span {
    #[track_caller]
    pub fn text(&self, attribute: &str) -> &str {
        match self.attributes.get(attribute) {
            Some(Value::StringValue(text)) => text,
            found => panic!("{attribute} is {found:?} in {self:?}"),
        }
    }

    #[track_caller]
    pub fn number(&self, attribute: &str) -> u64 {
        match self.attributes.get(attribute) {
            Some(Value::IntValue(number)) => u64::try_from(*number).expect("a count"),
            found => panic!("{attribute} is {found:?} in {self:?}"),
        }
    }
}

#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    /// The last metrics of each service.
    measured: BTreeMap<String, ExportMetricsServiceRequest>,
}

/// The collector. It stops when dropped.
pub struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    _tasks: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (taken, mut tasks) = (Arc::<Mutex<Taken>>::default(), JoinSet::new());
        let server = Server::builder()
            .add_service(TraceServiceServer::new(Front(Arc::clone(&taken))))
            .add_service(MetricsServiceServer::new(Front(Arc::clone(&taken))));
        tasks.spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
        });
        Self { address, taken, _tasks: tasks }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().expect("no panic").spans.clone()
    }

    /// Returns the last metrics of a service: the sum over all attributes; for histograms the number of
    /// values.
    pub fn measured(&self, service: &str) -> BTreeMap<String, f64> {
        let taken = self.taken.lock().expect("no panic");
        let requests = taken.measured.get(service).into_iter();
        let metrics = requests
            .flat_map(|request| &request.resource_metrics)
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics);
        let value = |value: &Option<number_data_point::Value>| match value {
            Some(number_data_point::Value::AsDouble(number)) => *number,
            Some(number_data_point::Value::AsInt(number)) => *number as f64,
            None => 0.0,
        };
        let sum = |metric: &metric::Data| match metric {
            metric::Data::Sum(sum) => sum.data_points.iter().map(|point| value(&point.value)).sum(),
            metric::Data::Gauge(gauge) => gauge.data_points.iter().map(|point| value(&point.value)).sum(),
            metric::Data::Histogram(histogram) => {
                histogram.data_points.iter().map(|point| point.count as f64).sum()
            }
            other => panic!("{other:?}"),
        };
        metrics.map(|metric| (metric.name.clone(), sum(metric.data.as_ref().expect("data")))).collect()
    }
}

struct Front(Arc<Mutex<Taken>>);

fn service(attributes: &[KeyValue]) -> String {
    let name = attributes.iter().find(|pair| pair.key == "service.name");
    match name.and_then(|pair| pair.value.clone()?.value) {
        Some(Value::StringValue(name)) => name,
        other => panic!("the service is {other:?}"),
    }
}

#[tonic::async_trait]
impl TraceService for Front {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut taken = self.0.lock().expect("no panic");
        for of_resource in request.into_inner().resource_spans {
            let service = service(&of_resource.resource.expect("a resource").attributes);
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let value = |value: Option<AnyValue>| value.and_then(|value| value.value);
                let attributes =
                    span.attributes.into_iter().filter_map(|pair| Some((pair.key, value(pair.value)?)));
                taken.spans.push(Span {
                    service: service.clone(),
                    trace_id: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    is_error: span.status.is_some_and(|status| status.code == 2),
                    begun_ns: span.start_time_unix_nano,
                    ended_ns: span.end_time_unix_nano,
                    attributes: attributes.collect(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Front {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let request = request.into_inner();
        let resource = request.resource_metrics.first().and_then(|first| first.resource.as_ref());
        let service = service(&resource.expect("a resource").attributes);
        self.0.lock().expect("no panic").measured.insert(service, request);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
