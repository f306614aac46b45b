-- One row is one video: what was asked for, how far it is, and who is working on it.
-- Times are Unix milliseconds. The ids sort in the order of creation.
CREATE TABLE videos (
    id                     TEXT    NOT NULL PRIMARY KEY,
    model                  TEXT    NOT NULL,
    params                 TEXT    NOT NULL CHECK (json_valid(params)),
    metadata               TEXT    NOT NULL CHECK (json_valid(metadata)),
    warnings               TEXT    NOT NULL CHECK (json_valid(warnings)),
    prompt_tokens          INTEGER NOT NULL,
    prompt_truncated       INTEGER NOT NULL,
    priority               INTEGER NOT NULL,

    status                 TEXT    NOT NULL DEFAULT 'queued'
                           CHECK (status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')),
    stage                  TEXT,
    step                   INTEGER NOT NULL DEFAULT 0,
    total_steps            INTEGER NOT NULL,
    progress               INTEGER NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    cancel_requested_at_ms INTEGER,

    -- attempt counts every claim; lost_attempts only those that ended with the process or with the lease,
    -- so that a row handed back by an orderly shutdown is never held against it.
    attempt                INTEGER NOT NULL DEFAULT 0,
    lost_attempts          INTEGER NOT NULL DEFAULT 0,
    -- The lease: a write by a worker must name the owner and the generation it claimed with.
    lease_owner            TEXT,
    lease_generation       INTEGER NOT NULL DEFAULT 0,
    heartbeat_at_ms        INTEGER,

    error_code             TEXT,
    error_message          TEXT,
    output_key             TEXT,
    output_bytes           INTEGER,
    output_sha256          TEXT,
    timings                TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(timings)),

    created_at_ms          INTEGER NOT NULL,
    started_at_ms          INTEGER,
    completed_at_ms        INTEGER,

    CHECK ((status = 'completed') = (output_key IS NOT NULL)),
    CHECK ((status = 'failed') = (error_code IS NOT NULL)),
    CHECK ((status = 'in_progress') = (lease_owner IS NOT NULL))
) STRICT;

-- Serves the claim (the first queued row by priority, then age) and the counts by status.
CREATE INDEX videos_by_turn ON videos (status, priority DESC, id);
