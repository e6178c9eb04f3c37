"""Key tables of published weights, one file a release."""
