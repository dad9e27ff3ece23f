"""`siftune choose`: which arm to take is measured on the user's own targets."""
