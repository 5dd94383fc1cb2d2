"""Chat messages of every layout, and the chat template that renders them. Runs in the driver; knows no data set."""
