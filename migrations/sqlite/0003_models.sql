-- Several models in one server: how often a later video was taken before this one because its model was loaded.
ALTER TABLE videos ADD COLUMN passed_over INTEGER NOT NULL DEFAULT 0;

-- Serves the claim of a worker that would rather go on with the models it has.
CREATE INDEX videos_by_model_turn ON videos (status, priority, model, turn, id);
