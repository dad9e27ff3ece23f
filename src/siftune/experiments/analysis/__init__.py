"""What a finished study tells, as functions of plain arrays: each module answers one question."""
