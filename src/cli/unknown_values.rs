//! Prepares answers of workers of a later release for JSON. The JSON mapping has no name for an enum value
//! that only later releases know. Such a value becomes "unspecified", as in the rest of this program.

use crate::proto::v1;

/// Gives each job a phase that has a name.
pub fn stats(mut stats: v1::GetStatsResponse) -> v1::GetStatsResponse {
    for job in &mut stats.jobs {
        job.set_phase(job.phase());
    }
    stats
}

/// Gives the health a status that has a name.
pub fn health(mut health: v1::HealthResponse) -> v1::HealthResponse {
    health.set_status(health.status());
    health
}

/// Gives a record's transaction a state that has a name.
pub fn record(mut record: v1::Record) -> v1::Record {
    record.set_transaction(record.transaction());
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_a_name_does_not_keep_the_rest_from_being_printed() {
        let job = v1::Job { segment_id: "orders:3:17".to_owned(), phase: 99, ..v1::Job::default() };
        let response = v1::GetStatsResponse { jobs: vec![job], ..v1::GetStatsResponse::default() };
        assert!(serde_json::to_string(&response).is_err(), "else this file is not needed");
        assert!(serde_json::to_string(&stats(response)).is_ok_and(|json| json.contains("orders:3:17")));
        let response =
            v1::HealthResponse { status: 99, version: "2.0".to_owned(), ..v1::HealthResponse::default() };
        assert!(serde_json::to_string(&health(response)).is_ok_and(|json| json.contains("2.0")));
    }
}
