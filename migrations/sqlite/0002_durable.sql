-- Who a video belongs to, whose turn it is, where it can be gone on with, what is known of it afterwards; and the
-- tables beside it: the events (server-sent events, webhooks and the audit trail all read them), the webhooks' outbox,
-- API keys and idempotency keys. Times are Unix milliseconds.

ALTER TABLE videos ADD COLUMN owner TEXT;
-- Equals take turns: a key's next video is one turn behind its last, and nobody's is ahead of the line's first.
ALTER TABLE videos ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE videos ADD COLUMN sent_prompt TEXT;
ALTER TABLE videos ADD COLUMN remixed_from TEXT;
ALTER TABLE videos ADD COLUMN retry_of TEXT;
ALTER TABLE videos ADD COLUMN webhook_url TEXT;
-- The request's canonical fields, hashed, and how often its client had tried before: a retry finds its original.
ALTER TABLE videos ADD COLUMN fingerprint TEXT;
ALTER TABLE videos ADD COLUMN retry_count INTEGER NOT NULL DEFAULT 0;

ALTER TABLE videos ADD COLUMN low_memory INTEGER NOT NULL DEFAULT 0;
-- The steps in the video's checkpoint file, if it has one.
ALTER TABLE videos ADD COLUMN checkpoint_step INTEGER;
-- The furthest checkpoint there ever was. Only a further one counts as getting on.
ALTER TABLE videos ADD COLUMN furthest_step INTEGER NOT NULL DEFAULT 0;

ALTER TABLE videos ADD COLUMN thumbnail TEXT CHECK (thumbnail IS NULL OR json_valid(thumbnail));
ALTER TABLE videos ADD COLUMN spritesheet TEXT CHECK (spritesheet IS NULL OR json_valid(spritesheet));
ALTER TABLE videos ADD COLUMN files_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE videos ADD COLUMN peak_memory_bytes INTEGER;
ALTER TABLE videos ADD COLUMN expired_at_ms INTEGER;

-- What the videos of before would hold, had this column been there.
UPDATE videos SET files_bytes = coalesce(output_bytes, 0);

DROP INDEX videos_by_turn;
-- Serves the claim.
CREATE INDEX videos_by_turn ON videos (status, priority DESC, turn, id, owner);
-- Serves the limits by key and a key's last turn.
CREATE INDEX videos_by_owner_turn ON videos (status, owner, priority, turn);
CREATE INDEX videos_by_owner ON videos (owner, id);
CREATE INDEX videos_by_fingerprint ON videos (fingerprint, created_at_ms) WHERE fingerprint IS NOT NULL;
-- Serves retention: the files that are there, the oldest first.
CREATE INDEX videos_by_end ON videos (completed_at_ms, id, files_bytes) WHERE status = 'completed' AND expired_at_ms IS NULL;

-- Written with the change it tells of, in one transaction; never changed.
CREATE TABLE events (
    seq      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    video_id TEXT    NOT NULL,
    owner    TEXT,
    kind     TEXT    NOT NULL,
    attempt  INTEGER NOT NULL,
    actor    TEXT,
    detail   TEXT,
    at_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_video ON events (video_id, seq);
CREATE INDEX events_by_owner ON events (owner, seq);
CREATE INDEX events_by_age ON events (at_ms);

CREATE TABLE webhook_deliveries (
    event_seq          INTEGER NOT NULL PRIMARY KEY,
    video_id           TEXT    NOT NULL,
    kind               TEXT    NOT NULL,
    url                TEXT    NOT NULL,
    created_at_ms      INTEGER NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 0,
    -- NULL when nothing more is tried: delivered, or given up.
    next_attempt_at_ms INTEGER,
    delivered_at_ms    INTEGER,
    last_error         TEXT
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at_ms) WHERE next_attempt_at_ms IS NOT NULL;

CREATE TABLE queue_state (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    paused INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO queue_state (id) VALUES (1);

CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    secret_sha256 TEXT    NOT NULL,
    scopes        TEXT    NOT NULL CHECK (json_valid(scopes)),
    limits        TEXT    NOT NULL CHECK (json_valid(limits)),
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER
) STRICT;

CREATE TABLE idempotency_keys (
    owner         TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    fingerprint   TEXT    NOT NULL,
    video_id      TEXT    NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT;
CREATE INDEX idempotency_keys_by_video ON idempotency_keys (video_id);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at_ms);
