"""What the kill matrix is made of: the training that is killed, where it is, and what is true of it afterwards."""
