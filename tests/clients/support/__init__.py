"""What the black-box tests share: the server under test, a raw socket, the bus over REST."""
