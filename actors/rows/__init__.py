"""Files and hub data sets as rows of JSON values. Runs in the driver."""
